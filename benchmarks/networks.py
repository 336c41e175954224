"""The networks that the benchmarks attack: trained once on real data, kept in `benchmarks/weights/` (ignored by git).

MNIST comes from `$TRUSTBOUND_DATA/mnist`, colour photographs from `$TRUSTBOUND_DATA/cifar10-jpeg`: CIFAR-10 encoded
anew as JPEG, so figures on it do not compare with published CIFAR-10 ones.

Draw 0 is what the suites were shaped on. A later draw has weights of its own (another initialisation, another order of
training) and test images that no earlier draw holds: what a search does there, nobody tuned.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import trustbound as tb
from trustbound.data.stratified import draw_stratified
from trustbound.hardening import Recipe
from trustbound.model import build

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network: its architecture, what it is trained on and how, and the threat it is examined under."""

    name: str
    architecture: str
    data: str
    threat: str
    recipe: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)


NETWORKS = {
    network.name: network
    for network in (
        Network(
            name="mnist-cnn",
            architecture="cnn-small",
            data="mnist",
            threat="linf:0.1",
            recipe={"epochs": 3, "batch_size": 128, "learning_rate": 3e-3},
        ),
        Network(
            name="mnist-cnn-hardened",
            architecture="cnn-small",
            data="mnist",
            threat="linf:0.3",
            recipe={
                "objective": "fgsm-rs",
                "threat": "linf:0.3",
                "epochs": 10,
                "batch_size": 128,
                "learning_rate": 5e-3,
                "schedule": "cyclic",
            },
        ),
        Network(
            name="mnist-fc",
            architecture="fc",
            data="mnist",
            threat="linf:0.05",
            recipe={"epochs": 5, "batch_size": 128, "learning_rate": 2e-3},
            arguments={"widths": [200, 200]},
        ),
        Network(
            name="colour-vit",
            architecture="vit-small",
            data="cifar10-jpeg",
            threat="linf:4/255",
            recipe={
                "objective": "fgsm-rs",
                "threat": "linf:4/255",
                "epochs": 3,
                "batch_size": 128,
                "learning_rate": 2e-3,
            },
            arguments={"patch": 4, "dim": 64, "depth": 3, "heads": 4},
        ),
        Network(
            name="colour-resnet-silu",
            architecture="wrn-28-10",
            data="cifar10-jpeg",
            threat="linf:4/255",
            recipe={
                "objective": "fgsm-rs",
                "threat": "linf:4/255",
                "epochs": 2,
                "batch_size": 128,
                "learning_rate": 4e-3,
            },
            arguments={"depth": 10, "width": 1, "activation": "silu"},
        ),
    )
}


def data(network: Network, split: str, limit: int | None = None, draw: int = 0) -> tb.LabelledSet:
    """The network's data; draw k of `limit` examples shares none with draws 0 … k - 1 of as many."""
    source = network.data
    if network.data == "cifar10-jpeg":
        source = str(Path(os.environ["TRUSTBOUND_DATA"]) / "cifar10-jpeg" / "cifar10-jpeg.tar.gz")
    if draw == 0:
        return tb.load_data(source, split=split, limit=limit)
    if limit is None:
        raise SystemExit("a draw needs a limit")
    examples = tb.load_data(source, split=split)
    for _ in range(draw):
        left = torch.ones(len(examples), dtype=torch.bool)
        left[torch.from_numpy(draw_stratified(examples.labels.numpy(), limit))] = False
        examples = examples.take(left.nonzero()[:, 0])
    return examples.stratified(limit)


def load(name: str, draw: int = 0) -> tb.Model:
    """A trained network, trained now if it never was."""
    network = NETWORKS[name]
    path = WEIGHTS / f"{name}{f'-{draw}' if draw else ''}.safetensors"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        train(network, path, draw)
    return tb.load_model(f"{network.architecture}:{path}")


def train(network: Network, path: Path, draw: int = 0) -> None:
    """Train a network and write its weights."""
    examples = data(network, "train")
    torch.manual_seed(draw)
    module = build(network.architecture, **{"input_shape": list(examples.shape), "classes": 10, **network.arguments})
    model = tb.wrap(module, box=(0.0, 1.0), classes=10)
    recipe = Recipe(**network.recipe, seed=draw)
    trained = tb.train(model, examples, recipe, validation=data(network, "test", 2000), run=path.with_suffix(""))
    last = trained.history[-1]
    print(
        f"{path.stem}: clean {last.validation_accuracy:.4f}, probe {last.probe_robust_accuracy}, "
        f"{[event.text for event in trained.events]}",
        flush=True,
    )
    tb.save_model(trained.model, path)


if __name__ == "__main__":
    import sys

    for name in sys.argv[1:] or NETWORKS:
        load(name)
