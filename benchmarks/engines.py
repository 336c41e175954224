"""Two Ray workers beside one, one thread each, on the same audit: how much faster, and are the records the same?

    python -m benchmarks.engines [--images 8000] [--pairs 1]     kept in results/engines.json
    python -m benchmarks.engines --write                         the sentence in benchmarks/README.md

A standard audit of the small MNIST CNN at l∞ 0.1, with its proofs and a curve on 100 images. The Ray cluster runs
before the clock does; starting workers, which import torch and unpickle the subject, counts, and so does what stays
with the driver: the trial, what the engine's results come to, answers on the witnesses. One worker and two take turns.
What else the machine did meanwhile stands beside each run: its load, and the share of a core that each worker got.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch

import trustbound as tb
from benchmarks.networks import NETWORKS, data, load
from benchmarks.page import fill
from trustbound.record.record_file import json_view

NETWORK = "mnist-cnn"
RESULTS = Path(__file__).parent / "results" / "engines.json"


class Clock:
    """A progress that adds up what each step took, as the driver sees it."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self._last, self._at = time.perf_counter(), ""

    def expect(self, seconds: Mapping[str, float]) -> None:
        """What is announced is not asked for here."""

    def begin(self, step: str, total: int) -> None:
        self._book()
        self._at = step

    def advance(self, count: int) -> None:
        self._book()

    def _book(self) -> None:
        now = time.perf_counter()
        if self._at:
            self.steps[self._at] = self.steps.get(self._at, 0.0) + now - self._last
        self._last = now


def audited(workers: int, images: int) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """One audit: its seconds, and what it says of each image."""
    network, clock = NETWORKS[NETWORK], Clock()
    model, examples = load(NETWORK), data(network, "test", images)
    load_before, started = os.getloadavg()[0], time.perf_counter()
    record = tb.audit(model, examples, [network.threat], engine="ray", workers=workers, progress=clock)
    seconds = time.perf_counter() - started
    view = json_view(record)
    told = {
        "workers": workers,
        "seconds": round(seconds, 1),
        "load_before": round(load_before, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "unit_seconds": round(view["cost"]["seconds"], 1),
        "steps": {step: round(spent, 2) for step, spent in clock.steps.items()},
        "brackets": view["brackets"],
    }
    return told, [(row.index, row.verdict, row.settled_by, row.size, row.certified_margin) for row in record.examples]


def measured(images: int, pairs: int) -> dict[str, Any]:
    """Runs with one worker and with two, in turn."""
    runs: list[dict[str, Any]] = []
    verdicts = []
    for _ in range(pairs):
        for workers in (1, 2):
            told, rows = audited(workers, images)
            runs.append(told)
            verdicts.append(rows)
            print(
                json.dumps({key: value for key, value in told.items() if key not in ("steps", "brackets")}), flush=True
            )
    seconds = {workers: [run["seconds"] for run in runs if run["workers"] == workers] for workers in (1, 2)}
    return {
        "network": NETWORK,
        "threat": NETWORKS[NETWORK].threat,
        "images": images,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"torch": torch.__version__, "ray": ray.__version__},
        "same_rows": all(rows == verdicts[0] for rows in verdicts),
        "ratio": round(statistics.median(seconds[1]) / statistics.median(seconds[2]), 2),
        "runs": runs,
    }


def sentence(kept: dict[str, Any]) -> str:
    """What was measured, for people."""
    one, two = (
        ", ".join(f"{run['seconds']:.0f} s" for run in kept["runs"] if run["workers"] == workers) for workers in (1, 2)
    )
    loads = [run[key] for run in kept["runs"] for key in ("load_before", "load_after")]
    same = "the same to the last bit" if kept["same_rows"] else "NOT the same"
    return (
        f"Standard audit of {kept['network']} at {kept['threat']}, {kept['images']:,} images, {kept['cores']} cores: "
        f"one worker {one}, two workers {two}, **{kept['ratio']:.2f} × faster**; the rows of both are {same}. The "
        f"machine was shared: its load went from {min(loads):.1f} to {max(loads):.1f}, the workers' own included."
    )


def main() -> None:
    """Measure or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write:
        fill("engines", sentence(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    torch.set_num_threads(1)
    # Ray makes its workers give way to everybody else on the machine: here they are to compete as the driver does.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    found = measured(options.images, options.pairs)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(sentence(found))


if __name__ == "__main__":
    main()
