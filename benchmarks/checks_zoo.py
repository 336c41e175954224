"""Do the health checks find planted failures, and how often do they cry wolf?

Two zoos. On zoo A (scikit-learn's 8×8 digits) the thresholds of `audits/checks/registry.py` were fixed; zoo B
(other data, architectures and seeds) is only reported. Each zoo holds honest networks and the same networks with
one planted failure each. Printed: the confusion table of planted failures against the check that must see them,
all other checks that saw them too, and the false alarms on the honest networks with exact 95 % intervals.

    python benchmarks/checks_zoo.py            # about 5 minutes on 2 cores; writes results/checks_zoo.json
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trustbound.audits.checks.context import After, Before, Evidence
from trustbound.audits.checks.examine import examine
from trustbound.audits.checks.probe import answers, objective_of, strike
from trustbound.audits.checks.registry import CHECKS
from trustbound.audits.checks.restored import fingerprint
from trustbound.data import LabelledSet, load_data
from trustbound.model.defences import InputQuantisation, RandomResize, with_k_winners
from trustbound.model.planted import BatchStatistics, DropoutOn, GradientKiller, SaturatedSoftmax
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.model.zoo.build import build
from trustbound.record.audit import Check
from trustbound.record.interval import binomial_interval
from trustbound.threat import Threat

RESULT = Path(__file__).parent / "results" / "checks_zoo.json"
CONTROL = 64


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


#: Planted failure → the check that must see it.
EXPECTED = {
    "softmax x 200": "saturated-output",
    "quantised input": "broken-graph",
    "straight-through quantised": "finite-differences",
    "gradient killer (zero)": "gradient-rate",
    "gradient killer (detached)": "broken-graph",
    "straight-through killer": "finite-differences",
    "k-winners-take-all": "finite-differences",
    "dropout on": "determinism",
    "dropout layer in train mode": "determinism",
    "batch norm in train mode": "determinism",
    "random resize": "determinism",
    "normalised inputs": "input-range",
    "normalised inputs, wide box": "input-range",
}


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
        "gradient killer (zero)": GradientKiller(own()),
        "gradient killer (detached)": GradientKiller(own(), keep_graph=False),
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

    source = load_breast_cancer()
    values = source.data.astype(np.float32)
    unit = (values - values.min(0)) / (values.max(0) - values.min(0))
    order = torch.randperm(len(unit), generator=torch.Generator().manual_seed(5))
    inputs, labels = torch.from_numpy(unit)[order], torch.from_numpy(source.target)[order].long()
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


def look(subject: Subject) -> dict[str, Check]:
    """Every check on one subject, with evidence from a plain audit: PGD and APGD on all, square on a group."""
    box = (0.0, 1.0)
    if subject.planted == "normalised inputs, wide box":
        box = (float(subject.inputs.min()), float(subject.inputs.max()))
    model = wrap(subject.module, box=box, adaptation=Adaptation())  # what a defence declares is withheld
    known = {
        "model": model,
        "inputs": subject.inputs,
        "labels": subject.labels,
        "threat": Threat.parse(f"linf:{subject.epsilon}"),
        "key": 7,
        "training": subject.training,
    }
    taken = fingerprint(model.module)
    before = Before(**known)
    if subject.planted == "normalised inputs":  # no search accepts inputs outside the box
        return {check.name: check for check in examine(before, ["input-range"]).checks}
    first = examine(before)
    evidence = _evidence(before, taken)
    second = examine(After(**known, evidence=evidence))
    return {check.name: check for check in (*first.checks, *second.checks)}


def _evidence(context: Before, taken: dict[str, str]) -> Evidence:
    name: str
    numbers: dict[str, Any]
    outputs, _ = answers(context, context.inputs)
    control = torch.zeros(len(context), dtype=torch.bool)
    control[torch.randperm(len(context), generator=context.generator())[:CONTROL]] = True
    broken = torch.zeros(len(context), dtype=torch.bool)
    adversarial = context.inputs.clone()
    searched = True
    for name, numbers in (("pgd", {"steps": 20}), ("apgd", {"steps": 40, "loss": "margin"}), ("apgd-t", {"steps": 30})):
        try:
            struck = strike(context, name, **numbers)
        except Exception as error:
            if "no gradient flows" not in str(error):
                raise
            searched = False
            continue
        fresh = struck.success & ~broken
        adversarial[fresh] = struck.found.adversarial[fresh]
        broken |= struck.success
    white = broken.clone()
    group = context.select(control.nonzero()[:, 0])
    struck = strike(group, "square", steps=300)
    black = torch.zeros_like(broken)
    black[control] = struck.success
    only = control & black & ~broken
    adversarial[only] = struck.found.adversarial[only[control]]
    wrong = objective_of(context, outputs).reached(outputs)
    return Evidence(
        clean_outputs=outputs,
        broken=(broken | black) & ~wrong,
        adversarial=adversarial,
        certified=torch.zeros_like(broken),
        control=control,
        white=white if searched else torch.zeros_like(white),
        black=black,
        fingerprint=taken,
    )


def report(zoo: str, honest: list[Subject], planted: list[Subject]) -> dict[str, object]:
    """Look at every subject, print the tables and return them."""
    print(f"\nZoo {zoo}: {len(honest)} honest networks, {len(planted)} with a planted failure")
    alarms: Counter[str] = Counter()
    fails: Counter[str] = Counter()
    per_honest: dict[str, dict[str, str]] = {}
    values: dict[str, dict[str, float | None]] = {}
    for subject in honest:
        seen = look(subject)
        loud = {name: check.verdict for name, check in seen.items() if check.verdict in ("WARN", "FAIL")}
        per_honest[subject.name] = loud
        values[subject.name] = {name: check.value for name, check in seen.items()}
        alarms.update(loud.keys())
        fails.update(name for name, verdict in loud.items() if verdict == "FAIL")
        print(f"  honest   {subject.name:34} {_written(loud) or 'all quiet'}", flush=True)
    caught: Counter[str] = Counter()
    total: Counter[str] = Counter()
    also: dict[str, Counter[str]] = {}
    rows = []
    for subject in planted:
        seen = look(subject)
        verdicts = {name: check.verdict for name, check in seen.items()}
        loud = {name: verdict for name, verdict in verdicts.items() if verdict in ("WARN", "FAIL")}
        right = EXPECTED[subject.planted]
        total[subject.planted] += 1
        caught[subject.planted] += right in loud
        also.setdefault(subject.planted, Counter()).update(loud.keys())
        rows.append({"network": subject.name, "planted": subject.planted, "verdicts": verdicts})
        mark = "caught" if right in loud else "MISSED"
        print(f"  {mark}   {subject.name:34} {subject.planted:28} {_written(loud)}", flush=True)
    print(f"\n  {'planted failure':30} {'must be seen by':20} {'seen':>8}   others that saw it")
    for name, count in total.items():
        others = ", ".join(f"{one} {n}" for one, n in also[name].most_common() if one != EXPECTED[name])
        print(f"  {name:30} {EXPECTED[name]:20} {caught[name]:>4}/{count:<3}   {others}")
    found, every = sum(caught.values()), sum(total.values())
    print(f"  detection {found}/{every}, exact 95 % interval {_share(found, every)}")
    print(f"\n  {'check':28} {'alarms':>8} {'FAIL':>5}   exact 95 % interval, {len(honest)} honest networks")
    for row in CHECKS:
        interval = _share(alarms[row.name], len(honest))
        print(f"  {row.name:28} {alarms[row.name]:>4}/{len(honest):<3} {fails[row.name]:>5}   {interval}")
    print("\n  largest value on an honest network, and the thresholds it stays under or not")
    for row in CHECKS:
        known = [one for each in values.values() if (one := each.get(row.name)) is not None]
        print(f"  {row.name:28} {max(known, default=float('nan')):>10.3g}   warn {row.warn:g}, fail {row.fail}")
    quiet = sum(not loud for loud in per_honest.values())
    unfailed = sum("FAIL" not in loud.values() for loud in per_honest.values())
    print(f"  networks without any alarm {quiet}/{len(honest)} {_share(quiet, len(honest))}")
    print(f"  networks without a FAIL    {unfailed}/{len(honest)} {_share(unfailed, len(honest))}")
    return {
        "honest": per_honest,
        "honest_values": values,
        "planted": rows,
        "detection": {
            name: {
                "check": EXPECTED[name],
                "seen": caught[name],
                "of": count,
                "interval": binomial_interval(caught[name], count),
                "others": dict(also[name]),
            }
            for name, count in total.items()
        },
        "detected": {"seen": found, "of": every, "interval": binomial_interval(found, every)},
        "false_alarms": {
            row.name: {
                "alarms": alarms[row.name],
                "fails": fails[row.name],
                "of": len(honest),
                "interval": binomial_interval(alarms[row.name], len(honest)),
            }
            for row in CHECKS
        },
    }


def _written(loud: dict[str, str]) -> str:
    return ", ".join(f"{name} {verdict}" for name, verdict in loud.items())


def _share(count: int, total: int) -> str:
    low, high = binomial_interval(count, total)
    return f"[{low:.0%}, {high:.0%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--zoo", choices=("A", "B", "both"), default="both")
    chosen = parser.parse_args().zoo
    started = time.perf_counter()
    results: dict[str, object] = {}
    for zoo, make in (("A", digits), ("B", unseen)):
        if chosen in (zoo, "both"):
            results[zoo] = report(zoo, *make())
    seconds = time.perf_counter() - started
    print(f"\n{seconds:.0f} s")
    if chosen == "both":
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({"seconds": round(seconds), "zoos": results}, indent=1) + "\n")
        print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
