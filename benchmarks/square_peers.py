"""Our Square beside the original authors' (pyautoattack), at several numbers of queries: unbroken, queries, seconds.

    python -m benchmarks.square_peers [NETWORK …] [--limit 100] [--queries 200 1000 2000 5000]
    python -m benchmarks.square_peers --table

The first runs what `benchmarks/results/square_peers.json` lacks, both in turn, and keeps each run as it is made, so
that it can be stopped and started again. Both get the same images, answered rightly, their default numbers, as
AutoAttack calls its own (share 0.8, schedule stretched to the queries), and seed 0. Seconds are of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import trustbound as tb
from benchmarks.networks import load
from benchmarks.other_networks import OTHERS, load_other, other_data
from benchmarks.reference import Counted

RESULTS = Path(__file__).parent / "results" / "square_peers.json"
# Network → threats where about half of the images stand. The digits are those of draw 0 of `benchmarks.other_networks`.
NETWORKS = {
    "mnist-fgsm": ("l2:1.7", "l1:8", "linf:0.31"),
    "mnist-cnn": ("l2:1.4", "l1:8", "linf:0.1"),
}
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def images(model: tb.Model, limit: int) -> tuple[Tensor, Tensor]:
    """The first images of draw 0 that the model answers rightly, with their labels."""
    examples = other_data(OTHERS["mnist-fgsm", 0], "test", 1000)
    with torch.no_grad():
        right = (model(examples.inputs).argmax(dim=1) == examples.labels).nonzero()[:limit, 0]
    return examples.inputs[right], examples.labels[right]


def theirs(model: tb.Model, inputs: Tensor, labels: Tensor, threat: tb.Threat, queries: int) -> dict[str, Any]:
    """The original: as many queries, the start and two looks besides."""
    from pyautoattack.square import SquareAttack

    counted = Counted(model)
    norm, epsilon = NAMES[threat.allowed.norm], threat.allowed.epsilon
    attack = SquareAttack(counted, norm=norm, eps=epsilon, n_queries=queries, p_init=0.8, seed=0, device="cpu")
    started = time.perf_counter()
    with torch.no_grad():
        adversarial = attack.perturb(inputs, labels)
        seconds = time.perf_counter() - started
        standing = model(adversarial).argmax(dim=1) == labels
    inside = threat.allowed.around(inputs, model.box).contains(adversarial)
    return {
        "unbroken": int((standing | ~inside).sum()),
        "outside": int((~standing & ~inside).sum()),
        "queries": counted.forwards,
        "seconds": round(seconds, 1),
    }


def ours(model: tb.Model, inputs: Tensor, labels: Tensor, threat: tb.Threat, queries: int) -> dict[str, Any]:
    """Ours with its default numbers."""
    found = tb.attack("square", model, inputs, labels, f"{threat};access=scores", steps=queries)
    return {
        "unbroken": int((~found.success).sum()),
        "queries": int(found.queries.sum()),
        "seconds": round(found.cost.seconds, 1),
    }


def table(kept: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| network | threat | images | queries | unbroken: reference | ours | asked: reference | ours | s | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, row in kept.items():
        network, threat, limit, queries = key.split()
        if {"reference", "ours"} <= set(row):
            pairs = [
                str(row[who][what]) for what in ("unbroken", "queries", "seconds") for who in ("reference", "ours")
            ]
            lines.append(f"| {' | '.join([network, threat, limit, queries, *pairs])} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--queries", type=int, nargs="+", default=[200, 1000, 2000, 5000])
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.table:
        print(table(kept))
        return
    torch.set_num_threads(1)
    for queries in options.queries:  # the dear ones last
        for name in options.networks or NETWORKS:
            model = load_other(name) if (name, 0) in OTHERS else load(name)
            inputs, labels = images(model, options.limit)
            for text in NETWORKS[name]:
                row = kept.setdefault(f"{name} {text} {options.limit} {queries}", {})
                for who, run in (("ours", ours), ("reference", theirs)):
                    if who not in row:
                        row[who] = run(model, inputs, labels, tb.Threat.parse(text), queries)
                        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
                        print(name, text, queries, who, row[who], flush=True)


if __name__ == "__main__":
    main()
