"""Seconds of a whole standard audit beside those of the reference AutoAttack alone, by turns in one pinned process.

    python -m benchmarks.audit_seconds [NETWORK …] [--runs 3]    kept run by run in results/audit_seconds.json
    python -m benchmarks.audit_seconds --write                   the table in benchmarks/README.md

The audit is what `trustbound audit` does with a run and a report: attacks, proofs, checks, controls, security curve,
files. The reference is AutoAttack with its published parameters (`benchmarks/reference.py`), attacks alone. Unseen
networks and images (draw 1 of `benchmarks/networks.py`), a seed of its own each time, one thread on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import trustbound as tb
from benchmarks.networks import NETWORKS, data, load
from benchmarks.page import fill
from benchmarks.reference import autoattack
from benchmarks.situations import residual

RESULTS = Path(__file__).parent / "results" / "audit_seconds.json"
#: Each network in words, its threat, images, and the share of the reference's seconds that is aimed at.
SUBJECTS: dict[str, tuple[str, str, int, float]] = {
    "mnist-cnn": ("MNIST, small CNN", "linf:0.1", 1000, 0.3),
    "mnist-cnn-hardened": ("MNIST, small CNN hardened with FGSM-RS", "linf:0.3", 1000, 0.3),
    "mnist-fc": ("MNIST, 784-200-200-10", "linf:0.05", 1000, 0.3),
    "colour-residual": ("colour ResNet of 18,000 ReLUs", "linf:1/255", 400, 1.0),
    "colour-resnet-silu": ("colour ResNet, SiLU", "linf:4/255", 100, 1.0),
    "colour-vit": ("colour vision transformer", "linf:4/255", 100, 1.0),
}


def audited(model: tb.Model, examples: tb.LabelledSet, threat: str, seed: int) -> dict[str, Any]:
    """A whole audit, from the call to the written page."""
    with tempfile.TemporaryDirectory() as folder:
        started, processor = time.perf_counter(), time.process_time()
        record = tb.audit(model, examples, [threat], seed=seed, run=Path(folder) / "run")
        tb.write_report(record, Path(folder) / "run" / "report.html")
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
    bracket = record.brackets[0]
    return {"seconds": seconds, "processor": processor, "lower": bracket.lower, "upper": bracket.upper}


def referred(model: tb.Model, examples: tb.LabelledSet, threat: str, seed: int) -> dict[str, Any]:
    """AutoAttack alone."""
    ball, processor = tb.Threat.parse(threat).perturbations, time.process_time()
    found = autoattack(model, examples.inputs, examples.labels, ball.norm, ball.epsilon, seed)
    processor = time.process_time() - processor
    upper = float(found.unbroken.double().mean())
    return {"seconds": found.seconds, "processor": processor, "upper": upper}


def table(kept: dict[str, Any]) -> str:
    """Medians, and every run in brackets."""
    lines = ["| network, threat | images | audit, all of it | AutoAttack alone | share | aim |", "| --- " * 6 + "|"]
    for name, (said, threat, images, aim) in SUBJECTS.items():
        runs = kept.get(name, [])
        if not runs:
            continue
        cells = []
        for side in ("audit", "reference"):
            seconds = [run[side]["seconds"] for run in runs]
            each = ", ".join(f"{one:.0f}" for one in seconds)
            cells.append(f"{statistics.median(seconds):.0f} s ({each})")
        share = statistics.median(run["audit"]["seconds"] / run["reference"]["seconds"] for run in runs)
        lines.append(f"| {said}, {threat} | {images} | {' | '.join(cells)} | {share:.2f} | ≤ {aim:g} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not kept yet, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if options.write:
        fill("audit-seconds", table(kept))
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    for name in options.names or SUBJECTS:
        _, threat, images, _ = SUBJECTS[name]
        known = NETWORKS["colour-vit" if name == "colour-residual" else name]
        model, examples = residual() if name == "colour-residual" else load(name, 1), data(known, "test", images, 1)
        for seed in range(len(kept.get(name, [])), options.runs):
            run = {
                "audit": audited(model, examples, threat, seed),
                "reference": referred(model, examples, threat, seed),
            }
            kept.setdefault(name, []).append(run | {"load": os.getloadavg()[0]})
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            print(name, run, flush=True)


if __name__ == "__main__":
    main()
