"""What rounding costs a proof: certified in the network's own float32 beside its float64 copy, on twelve networks.

    python -m benchmarks.rounding_loss --label after          writes benchmarks/results/rounding_loss.json
    python -m benchmarks.rounding_loss --only fc-9x200        some networks

Networks are trained on first use, in a quarter of an hour on one thread, and kept in `benchmarks/weights/`. ε is chosen
so that CROWN certifies some 30 to 90 % in float64. Beside the counts stands the worst rounding error of a margin seen
at sampled points of the regions, as a share of what the proof allowed for it. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import trustbound as tb
from benchmarks.pairings import Residual

WEIGHTS = Path(__file__).parent / "weights"
RESULTS = Path(__file__).parent / "results" / "rounding_loss.json"


def fully_connected(widths: list[int]) -> nn.Sequential:
    """Linear layers with ReLUs between."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutional(channels: list[int], last: int, hidden: int) -> nn.Sequential:
    """Convolutions of stride 2, every second one of stride 1 where there are more than two, then two linear layers."""
    layers: list[nn.Module] = []
    before = 1
    for place, after in enumerate(channels):
        stride = 1 if len(channels) > 2 and place % 2 == 0 else 2
        layers += [nn.Conv2d(before, after, 3 if stride == 1 else 4, stride, 1), nn.ReLU()]
        before = after
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(last, hidden), nn.ReLU(), nn.Linear(hidden, 10))


class ColourResidual(nn.Module):
    """Batch norm and two residual sums on colour pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 4, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.first = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
        )
        self.down = nn.Sequential(nn.Conv2d(12, 24, 4, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.second = nn.Sequential(
            nn.Conv2d(24, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
        )
        self.last = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(384, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        hidden = self.stem(inputs)
        hidden = self.down((hidden + self.first(hidden)).relu())
        return self.last((hidden + self.second(hidden)).relu())


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network: how it is made, on what and how it is trained, and where it is examined."""

    build: Callable[[], nn.Module]
    data: str = "mnist"
    training: str = "plain"
    train_epsilon: float = 0.0
    epochs: int = 3
    epsilon: float
    images: int = 100
    rate: float = 1e-3


ENTRIES: dict[str, Entry] = {
    "fc-6x100": Entry(build=lambda: fully_connected([784, *[100] * 6, 10]), epsilon=0.02),
    "fc-9x200": Entry(build=lambda: fully_connected([784, *[200] * 9, 10]), epsilon=0.016, images=60),
    "fc-4x256": Entry(build=lambda: fully_connected([784, *[256] * 4, 10]), epsilon=0.024),
    "fc-6x256": Entry(build=lambda: fully_connected([784, *[256] * 6, 10]), epsilon=0.019, images=60),
    "fc-adversarial": Entry(
        build=lambda: fully_connected([784, 200, 200, 200, 10]),
        epsilon=0.06,
        training="adversarial",
        train_epsilon=0.1,
        epochs=4,
    ),
    "cnn-small": Entry(build=lambda: convolutional([16, 32], 1568, 100), epsilon=0.04, epochs=2),
    "cnn-large": Entry(build=lambda: convolutional([8, 16, 16, 32], 1568, 100), epsilon=0.04, epochs=2, images=50),
    "cnn-adversarial": Entry(
        build=lambda: convolutional([16, 32], 1568, 100),
        epsilon=0.06,
        training="adversarial",
        train_epsilon=0.1,
        epochs=3,
        images=60,
    ),
    "cnn-certified": Entry(
        build=lambda: convolutional([16, 32], 1568, 100),
        epsilon=0.15,
        training="interval",
        train_epsilon=0.2,
        epochs=6,
    ),
    "colour-residual": Entry(
        build=ColourResidual, data="cifar10-jpeg", epsilon=0.25 / 255, epochs=4, images=50, rate=3e-3
    ),
    "digits-residual": Entry(build=Residual, data="digits", epsilon=0.03, epochs=30, rate=3e-3),
    "digits-fc": Entry(
        build=lambda: fully_connected([64, *[64] * 5, 10]), data="digits", epsilon=0.02, epochs=30, rate=3e-3
    ),
}


def examples(source: str, split: str, limit: int | None) -> tb.LabelledSet:
    """Real data."""
    if source == "cifar10-jpeg":
        source = str(Path(os.environ["TRUSTBOUND_DATA"]) / "cifar10-jpeg" / "cifar10-jpeg.tar.gz")
    return tb.load_data(source, split=split, limit=limit)


def interval_logits(module: nn.Sequential, inputs: Tensor, epsilon: float, labels: Tensor) -> Tensor:
    """Worst logits of the intervals, for training only: no rounding is counted."""
    low, high = (inputs - epsilon).clamp(min=0), (inputs + epsilon).clamp(max=1)
    for layer in module:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            middle, radius = (low + high) / 2, (high - low) / 2
            middle, bias = layer(middle), layer.bias
            twin = copy.copy(layer)
            twin._parameters = {"weight": layer.weight.abs(), "bias": None}  # type: ignore[dict-item]
            radius = twin(radius)
            del bias
            low, high = middle - radius, middle + radius
        else:
            low, high = layer(low), layer(high)
    own = nn.functional.one_hot(labels, 10).bool()
    return torch.where(own, low, high)


def train(entry: Entry, module: nn.Module) -> None:
    """Adam with a rate that falls to zero; FGSM from a random start, or intervals, where the entry says so."""
    data = examples(entry.data, "train", 12_000 if entry.data == "cifar10-jpeg" else None)
    inputs, labels = data.inputs[:20_000], data.labels[:20_000]
    optimizer = torch.optim.Adam(module.parameters(), entry.rate)
    count = entry.epochs * -(-len(inputs) // 128)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / count)
    chance, done = torch.Generator().manual_seed(0), 0
    module.train()
    for _ in range(entry.epochs):
        for rows in torch.randperm(len(inputs), generator=chance).split(128):
            x, y = inputs[rows], labels[rows]
            share = min(1.0, 2 * done / count)
            if entry.training == "adversarial":
                start = (torch.rand(x.shape, generator=chance) * 2 - 1) * entry.train_epsilon
                point = (x + start).clamp(0, 1).requires_grad_()
                (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(module(point), y), point)
                step = (start + 1.25 * entry.train_epsilon * gradient.sign()).clamp(
                    -entry.train_epsilon, entry.train_epsilon
                )
                loss = nn.functional.cross_entropy(module((x + step).clamp(0, 1)), y)
            elif entry.training == "interval" and isinstance(module, nn.Sequential):
                worst = interval_logits(module, x, share * entry.train_epsilon, y)
                loss = (1 - share / 2) * nn.functional.cross_entropy(module(x), y)
                loss = loss + share / 2 * nn.functional.cross_entropy(worst, y)
            else:
                loss = nn.functional.cross_entropy(module(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1


def load(name: str) -> nn.Module:
    """A trained network, trained now if it never was."""
    entry, path = ENTRIES[name], WEIGHTS / f"rounding-{name}.safetensors"
    torch.manual_seed(0)
    module = entry.build()
    if not path.exists():
        started = time.perf_counter()
        train(entry, module)
        path.parent.mkdir(exist_ok=True)
        save_file({key: value.contiguous() for key, value in module.state_dict().items()}, path)
        print(f"{name}: trained in {time.perf_counter() - started:.0f} s", flush=True)
    module.load_state_dict(load_file(path))
    return module.eval().requires_grad_(False)


def certified(name: str, model: nn.Module, data: tb.LabelledSet, epsilon: float) -> tuple[Any, float]:
    """A proof and the processor's seconds for it; the network is read before."""
    from trustbound.certificates.graph import read

    graph = read(model, data.inputs[:2])
    threat = tb.Threat.parse(f"linf:{epsilon!r}")
    started = time.process_time()
    proof = tb.certify(name, graph, data.inputs, data.labels, threat, box=(0.0, 1.0))  # type: ignore[arg-type]
    return proof, time.process_time() - started


def worst_error(module: nn.Module, double: nn.Module, data: tb.LabelledSet, epsilon: float, slack: Tensor) -> float:
    """The largest |margin in float32 − margin in float64| ÷ slack over corners and random points of the regions."""
    chance, worst = torch.Generator().manual_seed(1), 0.0
    for turn in range(24):
        share = torch.rand(data.inputs.shape, generator=chance) * 2 - 1
        share = share.sign() if turn % 2 else share
        points = (data.inputs + epsilon * share).clamp(0, 1)
        values = []
        with torch.no_grad():
            for outputs in (module(points).double(), double(points.double())):
                own = outputs.gather(1, data.labels[:, None])
                values.append((own - outputs).scatter(1, data.labels[:, None], torch.inf).amin(1))
        ratio = (values[0] - values[1]).abs() / slack
        worst = max(worst, float(ratio[slack.isfinite()].amax()) if bool(slack.isfinite().any()) else 0.0)
    return worst


def measure(name: str) -> dict[str, Any]:
    """One network's row."""
    entry = ENTRIES[name]
    module = load(name)
    double = copy.deepcopy(module).double()
    data = examples(entry.data, "test", entry.images)
    with torch.no_grad():
        clean = int((module(data.inputs).argmax(1) == data.labels).sum())
    row: dict[str, Any] = {"images": entry.images, "correct": clean, "epsilon": entry.epsilon}
    for certifier in ("interval", "crown"):
        wide, wide_seconds = certified(certifier, double, data, entry.epsilon)
        own, seconds = certified(certifier, module, data, entry.epsilon)
        row[certifier] = {
            "float64": int(wide.certified.sum()),
            "float32": int(own.certified.sum()),
            "seconds_float64": round(wide_seconds, 2),
            "seconds_float32": round(seconds, 2),
            "median_margin": float(own.margin.median()),
            "median_slack": float(own.slack.median()),
            "worst_error_to_slack": worst_error(module, double, data, entry.epsilon, own.slack),
        }
    return row


def table(results: dict[str, dict[str, Any]]) -> str:
    """The rows of every label as a table in Markdown."""
    head = "| network | ε | images | float64 | float32 | worst error ÷ slack | seconds float64, float32 |"
    lines = [head, "| --- " * 7 + "|"]
    for name in ENTRIES:
        for label, rows in results.items():
            if name in rows:
                row = rows[name]
                crown, interval = row["crown"], row["interval"]
                lines.append(
                    f"| {name}, {label} | {row['epsilon']:.4g} | {row['images']} | "
                    f"{crown['float64']} ({interval['float64']}) | {crown['float32']} ({interval['float32']}) | "
                    f"{crown['worst_error_to_slack']:.1e} | {crown['seconds_float64']}, {crown['seconds_float32']} |"
                )
    return "\n".join(lines)


def main() -> None:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label", default="after", help="the name that the rows are kept under")
    parser.add_argument("--only", nargs="*", default=list(ENTRIES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.only:
        row = measure(name)
        results.setdefault(given.label, {})[name] = row
        print(name, json.dumps(row), flush=True)
        given.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
