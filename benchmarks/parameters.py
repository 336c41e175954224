"""How many MNIST images are proven under rotations, shifts and brightness, and how many an attack leaves.

    python -m benchmarks.parameters [--images 50] [--cells 1024]

Each network of `NETWORKS` below, each set: certified by cells (`parameter-splitting`), unbroken by a grid and by margin
PGD over the parameters. Results: `benchmarks/results/parameters.json` and the table of benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import trustbound as tb
from benchmarks import networks
from benchmarks.page import fill

RESULTS = Path(__file__).parent / "results" / "parameters.json"
NETWORKS = ("mnist-cnn", "mnist-cnn-hardened")
SETS = (
    "rotation:2",
    "rotation:5",
    "rotation:15",
    "translation:0.5",
    "translation:1",
    "brightness:0.1",
    "brightness:0.2",
    "rotation:2,translation:0.3",
)


def measured(name: str, model: tb.Model, data: tb.LabelledSet, threat: str, cells: int) -> dict[str, Any]:
    """One network under one set."""
    started = time.process_time()
    found = tb.certify("parameter-splitting", model, data.inputs, data.labels, threat, max_cells=cells)
    spent = time.process_time() - started
    broken = torch.zeros(len(data), dtype=torch.bool)
    for attack in ("grid", "margin-pgd"):
        broken |= tb.attack(attack, model, data.inputs, data.labels, threat).success
    return {
        "network": name,
        "set": threat,
        "images": len(data),
        "certified": int(found.certified.sum()),
        "unbroken": int((~broken).sum()),
        "both": int((broken & found.certified).sum()),
        "processor_seconds": spent,
        "cells": cells,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Certified and unbroken, by network and set."""
    lines = ["| network | set | certified | unbroken | processor seconds an image |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row['network']} | `{row['set']}` | {row['certified']} | {row['unbroken']} | "
        f"{row['processor_seconds'] / row['images']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Certify, attack, write; fail where an attack breaks what is proven."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--cells", type=int, default=1024)
    options = parser.parse_args()
    data = tb.load_data("mnist", split="test", limit=options.images)
    rows = []
    for name in NETWORKS:
        model = networks.load(name)
        for threat in SETS:
            rows.append(measured(name, model, data, threat, options.cells))
            print(rows[-1], flush=True)
    RESULTS.write_text(json.dumps({"rows": rows, "torch": torch.__version__}, indent=1) + "\n")
    fill("parameters", table(rows))
    if any(row["both"] for row in rows):
        raise SystemExit("a certified example was broken")


if __name__ == "__main__":
    main()
