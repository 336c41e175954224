"""Certified accuracy of smoothed MNIST networks against the radius, attacks on the same votes beside it, and the cost.

    python -m benchmarks.smoothing [--images 100] [--draws 10000]

Three small CNNs are trained here: plainly, and under Gaussian noise of 0.25 and of 0.5. Each is certified by votes at
its noise, one statement for each image, all of a call together except with probability 0.001. Beside the certified
share at a radius stands what APGD on the smoothed model leaves there: broken is an image whose found point gets another
class by PREDICT, each answer wrong with probability 0.001 at most. Results: `benchmarks/results/smoothing.json` and the
table of benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import trustbound as tb
from benchmarks.page import fill
from trustbound.certificates.methods.smoothing import Smoothing, SmoothingResult
from trustbound.hardening import Recipe
from trustbound.hardening.objectives import GaussianNoise
from trustbound.model import build

RESULTS = Path(__file__).parent / "results" / "smoothing.json"
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
ATTACKED = (0.5, 1.0)
#: (name, noise it is trained under, noise it is smoothed by, kind, norm)
ROWS = (
    ("plain", None, 0.25, "gaussian", "l2"),
    ("noise 0.25", 0.25, 0.25, "gaussian", "l2"),
    ("noise 0.5", 0.5, 0.5, "gaussian", "l2"),
    ("noise 0.5", 0.5, 0.5, "uniform", "l1"),
)


def trained(noise_std: float | None) -> tb.Model:
    """The small CNN on all of MNIST, three epochs."""
    model = tb.wrap(build("cnn-small", seed=0, input_shape=[1, 28, 28], classes=10), box=(0.0, 1.0), classes=10)
    objective: Any = "standard" if noise_std is None else GaussianNoise(noise_std=noise_std)
    recipe = Recipe(objective=objective, epochs=3, batch_size=128, learning_rate=3e-3, seed=1)
    return tb.train(model, tb.load_data("mnist", split="train"), recipe).model


def certified(model: tb.Model, data: tb.LabelledSet, row: tuple[Any, ...], draws: int) -> SmoothingResult:
    """CERTIFY for all images."""
    _, _, std, kind, norm = row
    params: dict[str, Any] = {"noise_std": std, "noise": kind, "draws": draws}
    found = tb.certify("smoothing", model, data.inputs, data.labels, tb.Threat.parse(f"{norm}:0"), **params)
    assert isinstance(found, SmoothingResult)
    return found


def unbroken(model: tb.Model, data: tb.LabelledSet, std: float, radius: float) -> int:
    """Images that APGD on the smoothed model leaves, as PREDICT tells."""
    smoothed = tb.smooth(model, std, draws=32)
    method = Smoothing(draws=1000, failure_probability=0.001)
    found = tb.attack("apgd", smoothed, data.inputs, data.labels, f"l2:{radius}", steps=30, stop_early=False)
    answers = method.predict(smoothed, found.adversarial), method.predict(smoothed, data.inputs)
    wrong = ((answers[0] != data.labels) & (answers[0] >= 0)) | ((answers[1] != data.labels) & (answers[1] >= 0))
    return int((~wrong).sum())


def throughput(
    model: tb.Model, inputs: torch.Tensor, labels: torch.Tensor, draws: int, rounds: int = 7
) -> dict[str, float]:
    """Rows a second in units of bare forwards on batches of as many rows, medians of rounds by turns."""
    batch = torch.rand(256, *inputs.shape[1:])

    def bare(rows: int) -> float:
        started = time.process_time()
        with torch.no_grad():
            for _ in range(rows // 256):
                model.module(batch)
        return (time.process_time() - started) / (rows // 256 * 256)

    tb.certify(
        "smoothing", model, inputs[:1], labels[:1], tb.Threat.parse("l2:0"), noise_std=0.25, draws=256
    )  # imports
    told, rows = {}, 2048
    for name, count, each in ((f"{len(inputs)} images", len(inputs), draws // 20), ("one image", 1, 5 * draws)):
        ratios = []
        for _ in range(rounds):
            before, started = bare(rows), time.process_time()
            found = tb.certify(
                "smoothing",
                model,
                inputs[:count],
                labels[:count],
                tb.Threat.parse("l2:0"),
                noise_std=0.25,
                draws=each,
                family=len(inputs),
            )
            assert isinstance(found, SmoothingResult)
            ours = (time.process_time() - started) / found.cost.forwards
            ratios.append((before + bare(rows)) / 2 / ours)
        told[name] = statistics.median(ratios)
    return told


def memory(model: tb.Model, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Peak memory of the process, MiB, after 1,000 and after 100,000 draws for one image."""
    told = {}
    for draws in (1_000, 100_000):
        tb.certify("smoothing", model, inputs[:1], labels[:1], tb.Threat.parse("l2:0"), noise_std=0.25, draws=draws)
        told[f"{draws:,} draws"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return told


def table(result: dict[str, Any]) -> str:
    """Certified shares against the radius, with what the attack leaves."""
    lines = [
        f"| network, votes, norm | draws | {' | '.join(f'{radius:g}' for radius in RADII)} | seconds |",
        f"| --- | --- |{' --- |' * len(RADII)} --- |",
    ]
    for row in result["rows"]:
        cells = [
            f"{row['certified'][str(radius)]} to {left}"
            if (left := row["unbroken"].get(str(radius))) is not None
            else str(row["certified"][str(radius)])
            for radius in RADII
        ]
        name = f"{row['network']}, {row['kind']} {row['noise_std']:g}, {row['norm']}"
        lines.append(f"| {name} | {row['draws']:,} | {' | '.join(cells)} | {row['seconds']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Train, certify, attack, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--draws", type=int, default=10_000)
    options = parser.parse_args()
    data = tb.load_data("mnist", split="test", limit=options.images)
    models = {std: trained(std) for std in (None, 0.25, 0.5)}
    rows = []
    for row in ROWS:
        name, learned, std, kind, norm = row
        model = models[learned]
        for draws in (options.draws // 10, options.draws):
            found = certified(model, data, row, draws)
            last = draws == options.draws and kind == "gaussian"
            left = {str(radius): unbroken(model, data, std, radius) for radius in ATTACKED} if last else {}
            rows.append(
                {
                    "network": name,
                    "noise_std": std,
                    "kind": kind,
                    "norm": norm,
                    "draws": draws,
                    "images": len(data),
                    "certified": {str(radius): int((found.radius > radius).sum()) for radius in RADII},
                    "unbroken": left,
                    "abstained": int(found.abstained.sum()),
                    "seconds": found.seconds,
                    "forwards": found.cost.forwards,
                    "failure_probability": found.failure_probability,
                }
            )
            print(rows[-1], flush=True)
    model = models[0.25]
    large = tb.wrap(build("cnn-large", seed=0, input_shape=[1, 28, 28], classes=10), box=(0.0, 1.0), classes=10)
    result = {
        "rows": rows,
        "throughput": throughput(model, data.inputs, data.labels, options.draws),
        "throughput of cnn-large": throughput(large, data.inputs[:20], data.labels[:20], options.draws // 20, rounds=3),
        "memory": memory(model, data.inputs, data.labels),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    print({name: told for name, told in result.items() if name != "rows"}, flush=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    fill("smoothing", table(result))


if __name__ == "__main__":
    main()
