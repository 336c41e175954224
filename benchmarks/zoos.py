"""The zoos on which the checks are tried: honest networks, and the same ones with one planted failure each.

Zoo A fixed the thresholds (scikit-learn's 8×8 digits). Zoo B was looked at once while one rule and one threshold still
moved (MNIST, breast cancer). Zoo C was written down before it was run: EMNIST letters with 26 classes,
colour photographs, wine; other architectures, activations and training.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks import NETWORKS, data, load
from trustbound.data import LabelledSet, load_data
from trustbound.model.broken_models import BatchStatistics, DropoutOn, SaturatedSoftmax, StopGradient
from trustbound.model.defences.k_winners import with_k_winners
from trustbound.model.defences.quantisation import InputQuantisation
from trustbound.model.defences.random_resize import RandomResize
from trustbound.model.zoo.build import build


class StraightThrough(nn.Module):
    """Quantise the input and pretend in the backward pass that nothing happened."""

    def __init__(self, network: nn.Module, levels: int) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, inputs: Tensor) -> Tensor:
        rounded = (inputs * (self.levels - 1)).round() / (self.levels - 1)
        outputs: Tensor = self.network(inputs + (rounded - inputs).detach())
        return outputs


class Misled(nn.Module):
    """The outputs are the network's; the gradients are those of an untrained one (straight through)."""

    def __init__(self, network: nn.Module, decoy: nn.Module) -> None:
        super().__init__()
        self.network, self.decoy = network, decoy

    def forward(self, inputs: Tensor) -> Tensor:
        false = self.decoy(inputs)
        outputs: Tensor = false + (self.network(inputs) - false).detach()
        return outputs


class OnNormalised(nn.Module):
    """Pictures that the caller normalised, for a network that was trained on them so."""

    def __init__(self, network: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs * self.std + self.mean)
        return outputs


@dataclass(frozen=True)
class Subject:
    """One network with its test set; `planted` names the failure, empty for an honest one."""

    name: str
    module: nn.Module
    inputs: Tensor
    labels: Tensor
    epsilon: float
    planted: str = ""
    training: LabelledSet | None = None


def train(
    net: nn.Module, data: LabelledSet, *, epochs: int, epsilon: float = 0.0, seed: int = 0, rate: float = 2e-3
) -> nn.Module:
    """Adam on cross-entropy; with `epsilon` on 5-step l∞ PGD examples."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(data), generator=generator).split(64):
            inputs, labels = data.batch(rows), data.labels[rows]
            if len(rows) < 2:
                continue
            if epsilon:
                inputs = _ascended(net, inputs, labels, epsilon)
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(inputs), labels).backward()
            optimiser.step()
    return net.eval()


def _ascended(net: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    points = inputs + epsilon * (2 * torch.rand_like(inputs) - 1)
    for _ in range(5):
        points = points.clamp(0, 1).requires_grad_(True)
        slope = torch.autograd.grad(nn.functional.cross_entropy(net(points), labels), points)[0]
        points = inputs + (points.detach() + epsilon / 2 * slope.sign() - inputs).clamp(-epsilon, epsilon)
    return points.clamp(0, 1).detach()


def _small(channels: int, side: int, activation: Callable[[], nn.Module], *, norm: bool, pool: bool) -> nn.Module:
    """A two-convolution network with optional batch norm and max pooling."""

    def block(before: int, after: int) -> list[nn.Module]:
        stride = 1 if pool else 2
        layers: list[nn.Module] = [nn.Conv2d(before, after, 3, stride=stride, padding=1)]
        layers += [nn.BatchNorm2d(after)] if norm else []
        layers += [activation()]
        return [*layers, nn.MaxPool2d(2)] if pool else layers

    last = 32 * (side // 4) ** 2
    return nn.Sequential(*block(channels, 16), *block(16, 32), nn.Flatten(), nn.Linear(last, 10))


def _dense(features: int, classes: int, activation: Callable[[], nn.Module], dropout: float = 0.0) -> nn.Module:
    drop = [nn.Dropout(dropout)] if dropout else []
    layers = (nn.Flatten(), nn.Linear(features, 64), activation(), *drop, nn.Linear(64, 64), activation())
    return nn.Sequential(*layers, nn.Linear(64, classes))


def plant(subject: Subject, *, dropped: nn.Module | None = None) -> list[Subject]:
    """The same network with each failure that its architecture admits."""
    net, pictures = subject.module, subject.inputs.dim() == 4
    classes = int(subject.labels.max()) + 1
    features = subject.inputs[0].numel()

    def own() -> nn.Module:
        """A copy each, so that one failure's modes do not reach another."""
        return copy.deepcopy(net)

    torch.manual_seed(1)
    decoy = nn.Sequential(nn.Flatten(), nn.Linear(features, classes)).eval()
    failing: dict[str, nn.Module] = {
        "softmax x 200": SaturatedSoftmax(own(), scale=200.0),
        "quantised input": InputQuantisation(own(), levels=8),
        "straight-through quantised": StraightThrough(own(), levels=8),
        "gradient killer (zero)": StopGradient(own()),
        "gradient killer (detached)": StopGradient(own(), keep_graph=False),
        "straight-through killer": Misled(own(), decoy),
        "dropout on": DropoutOn(own(), probability=0.1),
    }
    if any(isinstance(part, nn.ReLU) for part in net.modules()):
        failing["k-winners-take-all"] = with_k_winners(own(), share=0.2)
    if any(isinstance(part, nn.BatchNorm2d) for part in net.modules()):
        failing["batch norm in train mode"] = BatchStatistics(own())
    if pictures:
        side = subject.inputs.shape[-1]
        failing["random resize"] = RandomResize(own(), low=side - max(side // 8, 1), high=side)
    if dropped is not None:
        failing["dropout layer in train mode"] = dropped
    made = [_like(subject, planted, module.eval()) for planted, module in failing.items()]
    if dropped is not None:
        dropped.train()
    if pictures:
        mean, std = float(subject.inputs.mean()), float(subject.inputs.std())
        moved = (subject.inputs - mean) / std
        for planted in ("normalised inputs", "normalised inputs, wide box"):
            outside = OnNormalised(own(), mean, std).eval()
            made.append(_like(subject, planted, outside, inputs=moved))
    return made


def _like(subject: Subject, planted: str, module: nn.Module, inputs: Tensor | None = None) -> Subject:
    return Subject(
        name=subject.name,
        module=module,
        inputs=subject.inputs if inputs is None else inputs,
        labels=subject.labels,
        epsilon=subject.epsilon,
        planted=planted,
        training=None,
    )


def _eight_bit(data: LabelledSet) -> LabelledSet:
    """The same pictures as a file would hold them, so that the rounding check has something to say."""
    return LabelledSet((data.inputs * 255).round().to(torch.uint8), data.labels, name=data.name)


def digits() -> tuple[list[Subject], list[Subject]]:
    """Zoo A."""
    learn, test = (_eight_bit(load_data("digits", split=split)) for split in ("train", "test"))
    nets = {
        "dense ReLU": (_dense(64, 10, nn.ReLU), 0.0),
        "dense SiLU": (_dense(64, 10, nn.SiLU), 0.0),
        "dense ReLU, dropout": (_dense(64, 10, nn.ReLU, 0.3), 0.0),
        "dense ReLU, PGD-trained": (_dense(64, 10, nn.ReLU), 0.1),
        "conv ReLU batch norm": (_small(1, 8, nn.ReLU, norm=True, pool=False), 0.0),
        "conv ReLU max pool": (_small(1, 8, nn.ReLU, norm=False, pool=True), 0.0),
        "conv GELU": (_small(1, 8, nn.GELU, norm=False, pool=False), 0.0),
        "conv ReLU, PGD-trained": (_small(1, 8, nn.ReLU, norm=False, pool=False), 0.15),
    }
    honest = [
        Subject(name, train(net, learn, epochs=12, epsilon=pgd, seed=seed), test.inputs, test.labels, 0.1, "", learn)
        for seed, (name, (net, pgd)) in enumerate(nets.items())
    ]
    by_name = {one.name: one for one in honest}
    dropped = train(_dense(64, 10, nn.ReLU, 0.3), learn, epochs=12, seed=11)
    planted = plant(by_name["dense ReLU"], dropped=dropped)
    planted += plant(by_name["conv ReLU batch norm"]) + plant(by_name["conv ReLU, PGD-trained"])
    return honest, planted


def unseen() -> tuple[list[Subject], list[Subject]]:
    """Zoo B: MNIST where $TRUSTBOUND_DATA has it, else digits under other seeds; breast cancer as a table."""
    tables, broken_tables = _table()
    if os.environ.get("TRUSTBOUND_DATA"):
        learn = load_data("mnist", split="train", limit=4000)
        test, side, epsilon, epochs = load_data("mnist", split="test", limit=400), 28, 0.1, 4
    else:
        learn, test = (_eight_bit(load_data("digits", split=split)) for split in ("train", "test"))
        side, epsilon, epochs = 8, 0.1, 12
    shape = (1, side, side)
    patch = side // 4
    vit = {"input_shape": shape, "patch": patch, "dim": 32, "depth": 2, "heads": 2}
    nets: dict[str, tuple[nn.Module, float]] = {
        "zoo cnn-small ReLU": (build("cnn-small", seed=20, input_shape=shape), 0.0),
        "zoo cnn-small SiLU": (build("cnn-small", seed=21, input_shape=shape, activation="silu"), 0.0),
        "zoo cnn-small GELU": (build("cnn-small", seed=22, input_shape=shape, activation="gelu"), 0.0),
        "zoo cnn-small, PGD-trained": (build("cnn-small", seed=23, input_shape=shape), 2 * epsilon),
        "conv SiLU batch norm, max pool": (_small(1, side, nn.SiLU, norm=True, pool=True), 0.0),
        "conv ReLU batch norm": (_small(1, side, nn.ReLU, norm=True, pool=False), 0.0),
        "vision transformer": (build("vit-small", seed=24, **vit), 0.0),
        "dense leaky ReLU": (_dense(side * side, 10, nn.LeakyReLU), 0.0),
        "dense ReLU, PGD-trained": (_dense(side * side, 10, nn.ReLU), epsilon),
    }
    honest = [
        Subject(
            name, train(net, learn, epochs=epochs, epsilon=pgd, seed=seed), test.inputs, test.labels, epsilon, "", learn
        )
        for seed, (name, (net, pgd)) in enumerate(nets.items(), start=30)
    ]
    by_name = {one.name: one for one in honest}
    dropped = train(_dense(side * side, 10, nn.SiLU, 0.2), learn, epochs=epochs, seed=41)
    planted = plant(by_name["zoo cnn-small ReLU"], dropped=dropped)
    planted += plant(by_name["conv ReLU batch norm"])
    return honest + tables, planted + broken_tables


def _table() -> tuple[list[Subject], list[Subject]]:
    from sklearn.datasets import load_breast_cancer

    inputs, labels = _in_unit_box(load_breast_cancer(), seed=5)
    learn = LabelledSet(inputs[:169], labels[:169], name="breast cancer/train")
    rest = inputs[169:], labels[169:]
    honest = []
    for seed, (name, net, pgd) in enumerate(
        (
            ("table: logistic", nn.Sequential(nn.Linear(30, 2)), 0.0),
            ("table: dense ReLU", _dense(30, 2, nn.ReLU), 0.0),
            ("table: dense GELU, PGD-trained", _dense(30, 2, nn.GELU), 0.05),
        )
    ):
        module = train(net, learn, epochs=60, epsilon=pgd, seed=50 + seed)
        honest.append(Subject(name, module, *rest, 0.1, "", learn))
    return honest, plant(honest[1])


def third() -> tuple[list[Subject], list[Subject]]:
    """Zoo C: needs $TRUSTBOUND_DATA."""
    learn, test = _letters()
    shape = (1, 28, 28)
    wide = {"depth": 10, "width": 1, "input_shape": shape, "classes": 26}
    nets: dict[str, tuple[nn.Module, float]] = {
        "letters: cnn-small ReLU": (build("cnn-small", seed=60, input_shape=shape, classes=26), 0.0),
        "letters: cnn-small ReLU, PGD-trained": (build("cnn-small", seed=61, input_shape=shape, classes=26), 0.15),
        "letters: dense tanh": (_dense(784, 26, nn.Tanh), 0.0),
        "letters: dense sigmoid": (_dense(784, 26, nn.Sigmoid), 0.0),
        "letters: wide ResNet ReLU batch norm": (build("wrn-28-10", seed=62, **wide), 0.0),
        "letters: cnn-small ELU": (_replaced(build("cnn-small", seed=63, input_shape=shape, classes=26), nn.ELU), 0.0),
    }
    honest = [
        Subject(name, train(net, learn, epochs=6, epsilon=pgd, seed=seed), test.inputs, test.labels, 0.1, "", learn)
        for seed, (name, (net, pgd)) in enumerate(nets.items(), start=70)
    ]
    for name in ("colour-resnet-silu", "colour-vit"):
        shown = data(NETWORKS[name], "test", 200, draw=1)
        honest.append(Subject(name, load(name, draw=1).module, shown.inputs, shown.labels, 4 / 255))
    honest += _wine()
    by_name = {one.name: one for one in honest}
    planted = plant(by_name["letters: cnn-small ReLU"]) + plant(by_name["letters: wide ResNet ReLU batch norm"])
    planted += plant(by_name["colour-resnet-silu"]) + plant(by_name["wine: dense tanh"])
    return honest, planted


def _replaced(net: nn.Module, activation: Callable[[], nn.Module]) -> nn.Module:
    """Another activation in place of every ReLU."""
    for name, part in net.named_children():
        if isinstance(part, nn.ReLU):
            setattr(net, name, activation())
    return net


def _letters() -> tuple[LabelledSet, LabelledSet]:
    """EMNIST letters, half to learn from, 300 to show."""
    held = np.load(Path(os.environ["TRUSTBOUND_DATA"]) / "emnist-letters" / "test.npz")
    images = torch.from_numpy(held["images"]).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(held["labels"].astype(np.int64)) - 1
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(6))
    learn, rest = order[:5000], order[5000:]
    test = LabelledSet(images[rest], labels[rest], name="letters/test").stratified(300)
    return LabelledSet(images[learn], labels[learn], name="letters/train"), test


def _in_unit_box(source: Any, *, seed: int) -> tuple[Tensor, Tensor]:
    """A table of scikit-learn in an order of its own, every column stretched to [0, 1]."""
    values = source.data.astype(np.float32)
    unit = (values - values.min(0)) / (values.max(0) - values.min(0))
    order = torch.randperm(len(unit), generator=torch.Generator().manual_seed(seed))
    return torch.from_numpy(unit)[order], torch.from_numpy(source.target)[order].long()


def _wine() -> list[Subject]:
    from sklearn.datasets import load_wine

    inputs, labels = _in_unit_box(load_wine(), seed=7)
    learn = LabelledSet(inputs[:78], labels[:78], name="wine/train")
    nets = {"wine: logistic": nn.Sequential(nn.Linear(13, 3)), "wine: dense tanh": _dense(13, 3, nn.Tanh)}
    return [
        Subject(name, train(net, learn, epochs=80, seed=80 + seed), inputs[78:], labels[78:], 0.1, "", learn)
        for seed, (name, net) in enumerate(nets.items())
    ]
