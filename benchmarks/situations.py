"""What an audit announces and what it takes: situations, each the command that a user would give.

    python -m benchmarks.situations [NAME …]     kept row by row in results/situations.json
    python -m benchmarks.situations --write      the table in benchmarks/README.md

`--dry-run` first, then the audit itself, report written, each in a process of its own; seconds are from the start of
the command to its end. Every command of a situation stands in its row. A machine that does other work meanwhile makes
both columns mean little: the load before and after is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import nn

import trustbound as tb
from benchmarks.networks import NETWORKS, WEIGHTS, load
from benchmarks.other_networks import load_other
from benchmarks.page import fill
from trustbound.hardening import Recipe
from trustbound.model import build

RESULTS = Path(__file__).parent / "results" / "situations.json"
HERE = "benchmarks/situations.py"


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One command, in words and in the terminal's."""

    name: str
    said: str
    model: str
    data: str
    more: tuple[str, ...]
    time: float | None = None

    def arguments(self) -> list[str]:
        """What follows `trustbound audit`."""
        return [self.model, "--data", self.data, *self.more]


def _threats(*threats: str) -> tuple[str, ...]:
    return tuple(part for threat in threats for part in ("--threat", threat))


def _kept(name: str, draw: int = 0) -> str:
    """A network of the benchmarks, as the command line names it."""
    return f"{NETWORKS[name].architecture}:{WEIGHTS / name}{f'-{draw}' if draw else ''}.safetensors"


COLOUR = f"wrn-28-10:{WEIGHTS / 'other-colour-plain-1'}.safetensors"
PICTURES = "$TRUSTBOUND_DATA/cifar10-jpeg/cifar10-jpeg.tar.gz"
SITUATIONS = (
    Situation(
        name="digits",
        said="digits, small CNN, two threats",
        model=f"cnn-small:{WEIGHTS / 'digits-hardened'}.safetensors",
        data="digits",
        more=_threats("linf:0.1", "l2:0.5"),
    ),
    Situation(
        name="mnist-1000",
        said="MNIST, small CNN, 1,000 images",
        model=_kept("mnist-cnn"),
        data="mnist",
        more=("--limit", "1000", *_threats("linf:0.1")),
    ),
    Situation(
        name="mnist-10000",
        said="MNIST, small CNN, 10,000 images, quick",
        model=_kept("mnist-cnn"),
        data="mnist",
        more=("--budget", "quick", *_threats("linf:0.1")),
    ),
    Situation(
        name="mnist-hardened",
        said="MNIST, small CNN trained against l∞ 0.3, 300 images",
        model=_kept("mnist-cnn-hardened"),
        data="mnist",
        more=("--limit", "300", *_threats("linf:0.3")),
    ),
    Situation(
        name="colour-resnet",
        said="colour ResNet of 74,000 ReLUs, 100 pictures",
        model=COLOUR,
        data=PICTURES,
        more=("--limit", "100", *_threats("linf:1/255")),
    ),
    Situation(
        name="colour-residual",
        said="colour ResNet of 18,000 ReLUs, 400 pictures",
        model=f"{HERE}:residual",
        data=PICTURES,
        more=("--limit", "400", *_threats("linf:1/255")),
    ),
    Situation(
        name="colour-vit",
        said="colour vision transformer, 100 pictures",
        model=_kept("colour-vit", 1),
        data=PICTURES,
        more=("--limit", "100", *_threats("linf:4/255")),
    ),
    Situation(
        name="mnist-fc",
        said="MNIST, 784-200-200-10, 1,000 images",
        model=_kept("mnist-fc", 1),
        data="mnist",
        more=("--limit", "1000", *_threats("linf:0.05")),
    ),
    Situation(
        name="forest",
        said="digits, random forest, decisions alone, 100 images",
        model="examples/random_forest.py:forest",
        data="digits",
        more=("--access", "decisions", "--limit", "100", *_threats("linf:0.1")),
    ),
    Situation(
        name="table",
        said="breast cancer table, dense network, 5 % of each column's range",
        model=f"{HERE}:table_network",
        data="cancer.csv",
        more=_threats("linf:5%"),
    ),
    Situation(
        name="classes-200",
        said="200 classes: pairs of MNIST digits, upright or inverted; 300 images",
        model=f"{HERE}:two_hundred",
        data="pairs.npz",
        more=("--limit", "300", *_threats("linf:0.05")),
    ),
    Situation(
        name="colour-resnet-30s",
        said="the colour ResNet, `--time 30s`",
        model=COLOUR,
        data=PICTURES,
        more=("--limit", "100", *_threats("linf:1/255"), "--time", "30s"),
        time=30,
    ),
    Situation(
        name="colour-residual-5m",
        said="the ResNet of 18,000 ReLUs, 4,000 pictures, `--time 5m`",
        model=f"{HERE}:residual",
        data=PICTURES,
        more=("--limit", "4000", *_threats("linf:1/255"), "--time", "5m"),
        time=300,
    ),
)


def cancer() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """The table of scikit-learn: columns scaled to their range, labels, names."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    inputs = torch.from_numpy(table.data)
    return inputs, torch.from_numpy(table.target), [name.replace(" ", "_") for name in table.feature_names]


def table_network() -> tb.Model:
    """A dense network on the table, trained on every second row; columns are scaled inside."""
    inputs, labels, _ = cancer()
    low, high = inputs.amin(0), inputs.amax(0)
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    scaled, optimiser = (inputs - low) / (high - low), torch.optim.Adam(body.parameters(), 1e-2)
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.cross_entropy(body(scaled[::2]), labels[::2]).backward()
        optimiser.step()
    first: Any = body[0]
    with torch.no_grad():  # (x − low) / (high − low) is part of the first layer
        first.weight /= high - low
        first.bias -= first.weight @ low
    return tb.wrap(body.eval().float(), box=(low.numpy(), high.numpy()))


def pairs(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two MNIST digits side by side, every second picture inverted: 200 classes."""
    held = tb.load_data("mnist", split=split)
    order = torch.randint(len(held), (2, count), generator=torch.Generator().manual_seed(len(held)))
    images = torch.cat([held.inputs[order[0]], held.inputs[order[1]]], 3)
    turned = torch.arange(count) % 2
    images = torch.where(turned.reshape(-1, 1, 1, 1) == 1, 1 - images, images)
    return images, 100 * turned + 10 * held.labels[order[0]] + held.labels[order[1]]


def residual() -> tb.Model:
    """A residual network whose stem halves the pictures, trained now if it never was."""
    network: Any = build("wrn-28-10", seed=0, input_shape=[3, 16, 16], depth=10, width=1)
    network[0].stride = (2, 2)
    model, path = tb.wrap(network, box=(0.0, 1.0)), WEIGHTS / "colour-residual.safetensors"
    if not path.exists():
        archive = os.path.expandvars(PICTURES)
        recipe = Recipe(epochs=4, batch_size=128, learning_rate=4e-3, schedule="cyclic", seed=1, probe=None)
        tb.save_model(tb.train(model, tb.load_data(archive, split="train", limit=20_000), recipe).model, path)
    load_model(network, str(path))
    network.eval()
    return model


def two_hundred() -> tb.Model:
    """A convolutional network for the 200 classes, trained now if it never was."""
    network = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 7 * 14, 256), nn.ReLU(), nn.Linear(256, 200),
    )  # fmt: skip
    model, path = tb.wrap(network, box=(0.0, 1.0)), WEIGHTS / "two-hundred.pt"
    if not path.exists():
        torch.manual_seed(0)
        images, labels = pairs("train", 60_000)
        optimiser = torch.optim.Adam(network.parameters(), 2e-3)
        for rows in torch.randperm(3 * len(images)).remainder(len(images)).split(256):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
        torch.save(network.state_dict(), path)
    network.load_state_dict(torch.load(path, weights_only=True))
    return model


def prepare(folder: Path) -> None:
    """Train what is not trained, write the files that commands name."""
    for name, draw in (("mnist-cnn", 0), ("mnist-cnn-hardened", 0), ("mnist-fc", 1), ("colour-vit", 1)):
        load(name, draw)
    digits = WEIGHTS / "digits-hardened.safetensors"
    if not digits.exists():
        train = [sys.executable, "-m", "trustbound", "train", "cnn-small", "--data", "digits"]
        subprocess.run([*train, "--recipe", "digits-hardened", "--out", str(digits)], check=True)
    load_other("colour-plain", 1)
    residual()
    two_hundred()
    inputs, labels, names = cancer()
    rows = [",".join([*names, "label"])]
    rows += [
        ",".join([*map(repr, row), str(label)])
        for row, label in zip(inputs[1::2].tolist(), labels[1::2].tolist(), strict=True)
    ]
    (folder / "cancer.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    images, classes = pairs("test", 1000)
    import numpy as np

    np.savez(folder / "pairs.npz", inputs=images.numpy(), labels=classes.numpy())


def told(situation: Situation, folder: Path) -> dict[str, Any]:
    """Announce, audit, and what both said."""
    arguments = [os.path.expandvars(part) for part in situation.arguments()]
    arguments = [str(folder / part) if part in ("cancer.csv", "pairs.npz") else part for part in arguments]
    command = [sys.executable, "-m", "trustbound", "audit", *arguments, "--json"]
    if situation.name == "table":
        command += ["--label-column", "label"]
    command += ["--run", str(folder / situation.name)]
    shown = " ".join(["trustbound", "audit", *situation.arguments()]).replace(str(WEIGHTS), "benchmarks/weights")
    load_before = os.getloadavg()[0]
    sketch, sketched = _timed([*command, "--dry-run"])
    record, seconds = _timed(command)
    brackets = record["brackets"]
    return {
        "said": situation.said,
        "command": shown,
        "announced": round(60 * sketch["likely_minutes"], 1) if situation.time is None else situation.time,
        "taken": round(seconds, 1),
        "dry_run": round(sketched, 1),
        "examples": brackets[0]["n"],
        "brackets": [[row["threat"], row["lower"], row["upper"]] for row in brackets],
        "load": [round(load_before, 2), round(os.getloadavg()[0], 2)],
    }


def _timed(command: list[str]) -> tuple[Any, float]:
    """What a command prints as JSON, and its seconds; exit codes up to 3 are verdicts."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode > 3 or not done.stdout:
        raise SystemExit(f"{' '.join(command)}\nexit {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout), seconds


def table(kept: dict[str, Any]) -> str:
    """The rows, for people."""
    lines = ["| situation | announced | taken | taken / announced | `--dry-run` itself | load |", "| --- " * 6 + "|"]
    for row in kept.values():
        announced, taken = row["announced"], row["taken"]
        lines.append(
            f"| {row['said']} | {announced:.0f} s | {taken:.0f} s | {taken / announced:.2f} | {row['dry_run']:.0f} s | "
            f"{row['load'][0]:.1f} to {row['load'][1]:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if options.write:
        fill("situations", table(kept))
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        for situation in SITUATIONS:
            if options.names and situation.name not in options.names:
                continue
            kept[situation.name] = told(situation, Path(name))
            order = [known.name for known in SITUATIONS if known.name in kept]
            RESULTS.write_text(json.dumps({key: kept[key] for key in order}, indent=1) + "\n", encoding="utf-8")
            print(json.dumps(kept[situation.name]), flush=True)


if __name__ == "__main__":
    main()
