"""Certified accuracy of MNIST networks by how they were trained, a column for each method, with seconds and memory.

    python -m benchmarks.certified_accuracy [--images 100] [--epochs 20] [--examples 60000] [--timeout 5]

The small CNN of the certification papers is trained four times: plainly, against FGSM from random starts, on interval
bounds and on CROWN-IBP, the last three at l∞ 0.3. Each method then certifies the same test images under l∞ 0.1, l∞ 0.3
and l2 0.5, in a process of its own, whose peak memory is what the table says. `branch-and-bound` has `--timeout`
seconds an image. Networks are kept in `benchmarks/weights/`, by their settings; a cell that was measured with the same
settings is not measured again. Results: `benchmarks/results/certified_accuracy.json` and benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import trustbound as tb
from benchmarks.networks import load
from benchmarks.page import fill
from trustbound.hardening import Recipe
from trustbound.hardening.objectives import CrownIBPTraining, IntervalTraining
from trustbound.model import build

RESULTS = Path(__file__).parent / "results" / "certified_accuracy.json"
WEIGHTS = Path(__file__).parent / "weights"
THREATS = ("linf:0.1", "linf:0.3", "l2:0.5")
METHODS = ("interval", "lipschitz", "crown", "alpha-crown", "branch-and-bound")
#: How each network is trained: objective, and whether at l∞ 0.3.
TRAININGS: dict[str, tuple[Any, bool]] = {
    "plain": ("standard", False),
    "fgsm-rs": ("fgsm-rs", True),
    "interval": (IntervalTraining(), True),
    "crown-ibp": (CrownIBPTraining(), True),
}

#: Long training against single steps overfits to them: the network of the other tables stands beside it.
HARDENED = "mnist-cnn-hardened"


def weights(name: str, epochs: int, examples: int) -> Path:
    """The weights of a network, trained now if they never were."""
    if name == HARDENED:
        load(HARDENED)
        return WEIGHTS / f"{HARDENED}.safetensors"
    path = WEIGHTS / f"certified-{name}-{epochs}-{examples}.safetensors"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        objective, hard = TRAININGS[name]
        model = tb.wrap(build("cnn-small", seed=0, input_shape=[1, 28, 28], classes=10), box=(0.0, 1.0), classes=10)
        given = {"epochs": epochs, "batch_size": 128, "learning_rate": 3e-3, "schedule": "cyclic", "seed": 1}
        recipe = Recipe(objective=objective, threat="linf:0.3" if hard else None, probe=None, **given)
        started = time.perf_counter()
        model = tb.train(model, tb.load_data("mnist", split="train", limit=examples), recipe).model
        tb.save_model(model, path)
        path.with_suffix(".seconds").write_text(f"{time.perf_counter() - started:.1f}")
    return path


def cell(path: str, threat: str, method: str, images: int, timeout: float) -> dict[str, Any]:
    """What one method certifies of one network, in this process."""
    model = tb.load_model(f"cnn-small:{path}")
    data = tb.load_data("mnist", split="test", limit=images)
    params: dict[str, Any] = {"timeout": timeout} if method == "branch-and-bound" else {}
    found = tb.certify(method, model, data.inputs, data.labels, threat, **params)
    proven, falsified = int(found.certified.sum()), 0 if found.falsified is None else int(found.falsified.sum())
    # What getrusage says outlives exec: a child would begin with its parent's peak.
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    return {"certified": proven, "falsified": falsified, "seconds": found.seconds, "MiB": peak}


def measured(path: Path, threat: str, method: str, images: int, timeout: float) -> dict[str, Any]:
    """The same in a process of its own."""
    given = [str(path), threat, method, str(images), str(timeout)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.certified_accuracy", "--cell", *given],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def clean(path: Path) -> float:
    """Accuracy on the whole test set."""
    model, data = tb.load_model(f"cnn-small:{path}"), tb.load_data("mnist", split="test")
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in data.inputs.split(1000)]) == data.labels
    return float(right.double().mean())


def table(result: dict[str, Any]) -> str:
    """Certified images, seconds and peak memory, a row for each network and threat."""
    head = ["trained", "test accuracy", "threat", *METHODS]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, held in result["networks"].items():
        for threat in THREATS:
            cells = []
            for method in METHODS:
                found = held["cells"].get(f"{threat} {method}")
                if found is None:
                    cells.append("")
                    continue
                broken = f", {found['falsified']} broken" if found["falsified"] else ""
                cells.append(f"{found['certified']}{broken} · {found['seconds']:.2g} s · {found['MiB']:.0f} MiB")
            accuracy = f"{held['accuracy']:.2%}"
            lines.append(f"| {' | '.join([name, accuracy, threat, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    """Train, certify, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--examples", type=int, default=60_000)
    parser.add_argument("--timeout", type=float, default=5.0)
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--cell", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        path, threat, method, images, timeout = options.cell
        print(json.dumps(cell(path, threat, method, int(images), float(timeout))))
        return
    settings = {name: getattr(options, name) for name in ("images", "epochs", "examples", "timeout")}
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result = kept if kept.get("settings") == settings else {"settings": settings, "networks": {}}
    paths = {name: weights(name, options.epochs, options.examples) for name in (*TRAININGS, HARDENED)}
    for name, path in paths.items():
        result["networks"].setdefault(name, {"cells": {}})["accuracy"] = clean(path)
    result |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for method in options.method or METHODS:  # cheap ones first, of all networks
        for name, path in paths.items():
            cells = result["networks"][name]["cells"]
            for threat in THREATS:
                if f"{threat} {method}" not in cells:
                    found = measured(path, threat, method, options.images, options.timeout)
                    cells[f"{threat} {method}"] = found
                    print(name, threat, method, found, flush=True)
                    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        fill("certified-accuracy", table(result))


if __name__ == "__main__":
    main()
