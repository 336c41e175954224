"""Layer tables: an AlexNet-shaped network, an MNIST CNN, and the same trained to stretch little, with what that proves.

    python -m benchmarks.lipschitz_table [--images 100] [--part alexnet|mnist|regularised …]

`alexnet` has the shape of AlexNet and random weights: it shows what the table costs at that size, not what the trained
network's numbers were. `mnist` is the plain CNN of `benchmarks/networks.py`. `regularised` trains the small CNN on all
of MNIST, three epochs each, plainly and with the objective `lipschitz`, and compares product, l2 radii that the product
proves, and accuracy. Results: `benchmarks/results/lipschitz_table.json` and benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import trustbound as tb
from benchmarks.networks import load
from benchmarks.page import fill
from trustbound.certificates.graph import read
from trustbound.certificates.methods.lipschitz import Lipschitz
from trustbound.certificates.radius import certified_radius
from trustbound.certificates.sensitivity.layer_table import rounded_up
from trustbound.hardening import Recipe
from trustbound.hardening.objectives import LipschitzTraining
from trustbound.model import build

RESULTS = Path(__file__).parent / "results" / "lipschitz_table.json"
#: l2 sizes at which the two networks of `regularised` are compared.
SIZES = (0.1, 0.25, 0.5)
#: Weights of the penalty; the largest whose accuracy is within half a point of the plain network's is reported.
WEIGHTS = (0.003, 0.01)
#: The l2 size of the row on large bounds without adversarial examples.
LARGE = 0.25


def alexnet() -> nn.Module:
    """The layers of AlexNet for inputs of 3 × 224 × 224, initialised as torch does."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Flatten(), nn.Linear(9216, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000),
    )  # fmt: skip


def told(found: tb.LipschitzResult) -> dict[str, Any]:
    """A layer table as plain values."""
    rows = [
        {
            "name": row.name,
            "kind": row.kind,
            "size": " × ".join(map(str, row.size)),
            "stride": "N/A" if row.stride is None else str(row.stride[0]),
            "upper": None if row.upper is None else row.upper["l2"],
            "gain": row.gain["l2"],
        }
        for row in found.layers
    ]
    ends = {"upper": found.upper["l2"], "lower": found.lower["l2"], "ratio": found.ratio["l2"]}
    return {"rows": rows, **ends, "seconds": found.seconds}


def trained(weight: float | None) -> tb.Model:
    """The small CNN on all of MNIST, three epochs."""
    model = tb.wrap(build("cnn-small", seed=0, input_shape=[1, 28, 28], classes=10), box=(0.0, 1.0), classes=10)
    objective: Any = "standard" if weight is None else LipschitzTraining(weight=weight)
    recipe = Recipe(objective=objective, epochs=3, batch_size=128, learning_rate=3e-3, seed=1)
    return tb.train(model, tb.load_data("mnist", split="train"), recipe).model


def examined(model: tb.Model, weight: float | None, images: int) -> dict[str, Any]:
    """Accuracy on the whole test set, constants, and what the product of norms proves of some images."""
    whole, data = tb.load_data("mnist", split="test"), tb.load_data("mnist", split="test", limit=images)
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in whole.inputs.split(1000)]) == whole.labels
    found = tb.lipschitz(model, data.inputs[:32])
    graph = read(model, data.inputs[:2])
    radii = certified_radius(Lipschitz(), graph, data.inputs, data.labels, model.box, "l2", steps=12)
    proven = {
        f"{name} {size}": int(
            tb.certify(certifier, model, data.inputs, data.labels, f"l2:{size}", **params).certified.sum()
        )
        for size in SIZES
        for name, certifier, params in (
            ("product", "lipschitz", {}),
            ("jacobian", "lipschitz", {"local": True}),
            ("crown", "crown", {}),
        )
    }
    return {
        "weight": weight,
        "accuracy": float(right.double().mean()),
        "table": told(found),
        "median radius": float(radii.median()),
        "mean radius": float(radii.mean()),
        "images": images,
        "proven": proven,
    }


def without_examples(model: tb.Model, images: int) -> dict[str, Any]:
    """Images of which CROWN proves that there is no adversarial example where the product of norms proves nothing."""
    data = tb.load_data("mnist", split="test", limit=images)
    threat = f"l2:{LARGE}"
    product = tb.certify("lipschitz", model, data.inputs, data.labels, threat)
    crown = tb.certify("crown", model, data.inputs, data.labels, threat)
    found = tb.lipschitz(model, data.inputs[:8], steps=1)
    return {
        "size": LARGE,
        "images": images,
        "upper": found.upper["l2"],
        "product": int(product.certified.sum()),
        "crown": int(crown.certified.sum()),
    }


def table(told: dict[str, Any]) -> str:
    """One layer table in Markdown."""
    lines = ["| layer | size | stride | upper bound, l2 | product so far |", "| --- | --- | --- | --- | --- |"]
    for row in told["rows"]:
        upper = "joins" if row["upper"] is None else rounded_up(row["upper"])
        lines.append(
            f"| {row['name']} ({row['kind']}) | {row['size']} | {row['stride']} | {upper} | {rounded_up(row['gain'])} |"
        )
    lines += [
        "",
        f"Whole network: {told['lower']:.4g} ≤ Lipschitz constant ≤ {rounded_up(told['upper'])}, ratio "
        f"{told['ratio']:.3g}; {told['seconds']:.1f} s.",
    ]
    return "\n".join(lines)


def compared(rows: list[dict[str, Any]]) -> str:
    """The regularised networks beside the plain one."""
    sizes = " | ".join(f"proven at {size:g}" for size in SIZES)
    lines = [
        f"| penalty | test accuracy | product | attained | ratio | median proven l2 radius | {sizes} |",
        f"| --- | --- | --- | --- | --- | --- |{' --- |' * len(SIZES)}",
    ]
    for row in rows:
        proven = (
            " · ".join(str(row["proven"][f"{name} {size}"]) for name in ("product", "jacobian", "crown"))
            for size in SIZES
        )
        held, weight = row["table"], "none" if row["weight"] is None else str(row["weight"])
        cells = [weight, f"{row['accuracy']:.2%}", rounded_up(held["upper"]), f"{held['lower']:.3g}"]
        cells += [f"{held['ratio']:.3g}", f"{row['median radius']:.3f}", *proven]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, keep, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--part", action="append", choices=("alexnet", "mnist", "regularised"))
    options = parser.parse_args()
    parts = options.part or ["alexnet", "mnist", "regularised"]
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if "alexnet" in parts:
        started = time.perf_counter()
        found = tb.lipschitz(alexnet().eval(), (3, 224, 224), box=(0.0, 1.0), steps=12)
        result["alexnet"] = told(found) | {"with reading": time.perf_counter() - started}
        result["alexnet"]["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(found, flush=True)
    if "mnist" in parts:
        model = load("mnist-cnn")
        data = tb.load_data("mnist", split="test", limit=64)
        result["mnist"] = told(tb.lipschitz(model, data.inputs))
        result["large bound"] = without_examples(load("mnist-cnn-hardened"), options.images)
        print(result["mnist"], result["large bound"], flush=True)
    if "regularised" in parts:
        result["regularised"] = []
        for weight in (None, *WEIGHTS):
            row = examined(trained(weight), weight, options.images)
            result["regularised"].append(row)
            print({name: told for name, told in row.items() if name != "table"}, row["table"]["upper"], flush=True)
    result |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    for name in ("alexnet", "mnist"):
        if name in result:
            fill(f"lipschitz-{name}", table(result[name]))
    if "regularised" in result:
        fill("lipschitz-regularised", compared(result["regularised"]))


if __name__ == "__main__":
    main()
