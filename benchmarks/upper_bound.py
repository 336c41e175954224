"""Our `standard` search beside the reference AutoAttack: unbroken counts and evaluations, on the same images.

    python -m benchmarks.upper_bound [NETWORK …] [--limit 1000] [--seeds 3] [--draw 1]

Unit = one forward; a backward costs r units, r measured here. Proofs are no part of the search and are timed apart.
Results are added to `benchmarks/results/upper_bound.json` network by network, so that a stopped run loses nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import trustbound as tb
from benchmarks.networks import NETWORKS, data, load
from benchmarks.reference import autoattack
from trustbound.record.cost import Cost

RESULTS = Path(__file__).parent / "results" / "upper_bound.json"


def ours(model: tb.Model, examples: tb.LabelledSet, threat: tb.Threat, seed: int) -> dict[str, Any]:
    """The standard audit; its search (attacks and controls), its checks and its proofs priced apart."""
    record = tb.audit(model, examples, [threat], budget="standard", seed=seed, curve_examples=0, batch_size=250)
    bracket = record.brackets[0]
    searched = [step for step in record.steps if step.kind != "proof"]
    cost = sum((step.cost for step in searched), Cost())
    unbroken = bracket.n - bracket.misclassified
    trail = []
    for step in searched:
        unbroken -= step.settled
        trail.append(
            {
                "attack": step.name.rpartition("/")[2],
                "method": step.method,
                "examined": step.examined,
                "unbroken": unbroken,
                "forwards": step.cost.forwards,
                "backwards": step.cost.backwards,
                "seconds": step.cost.seconds,
            }
        )
    return {
        "seed": seed,
        "clean": bracket.n - bracket.misclassified,
        "unbroken": bracket.certified + bracket.unknown,
        "certified": bracket.certified,
        "rows": [place for place, row in enumerate(record.examples) if row.verdict in ("certified", "unknown")],
        "forwards": cost.forwards,
        "backwards": cost.backwards,
        "seconds": cost.seconds,
        "whole_forwards": record.cost.forwards,
        "whole_backwards": record.cost.backwards,
        "proof_seconds": sum(step.cost.seconds for step in record.steps if step.kind == "proof"),
        "backward_cost": record.backward_cost,
        "exit_code": record.exit_code,
        "warnings": [f"{check.name}: {check.finding}" for check in record.checks if check.verdict in ("WARN", "FAIL")],
        "trail": trail,
    }


def theirs(model: tb.Model, examples: tb.LabelledSet, threat: tb.Threat, seed: int) -> dict[str, Any]:
    """The reference AutoAttack."""
    found = autoattack(
        model, examples.inputs, examples.labels, threat.perturbations.norm, threat.perturbations.epsilon, seed
    )
    return {
        "seed": seed,
        "unbroken": int(found.unbroken.sum()),
        "rows": found.unbroken.nonzero()[:, 0].tolist(),
        "forwards": found.forwards,
        "backwards": found.backwards,
        "seconds": found.seconds,
        "trail": found.trail,
    }


def keep(title: str, **entries: Any) -> dict[str, Any]:
    """Write what was measured beside what others may have written meanwhile; returns the row."""
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        row: dict[str, Any] = kept.setdefault(title, {})
        row.update(entries)
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    return row


def examine(title: str, name: str, threat: tb.Threat, draw: int, limit: int, seeds: int, reference_seeds: int) -> None:
    """One network, both searches, several seeds; runs of the reference that were kept are not repeated."""
    model, examples = load(name, draw), data(NETWORKS[name], "test", limit, draw)
    row = keep(title, network=name, threat=str(threat), draw=draw)
    if row.get("examples", len(examples)) != len(examples):
        raise SystemExit(f"{RESULTS} holds {title} on {row['examples']} images: ask for as many, or move it away")
    row = keep(title, examples=len(examples))
    for seed in range(len(row.get("reference", [])), reference_seeds):
        row = keep(title, reference=[*row.get("reference", []), theirs(model, examples, threat, seed)])
    mine = []
    for seed in range(seeds):
        mine.append(ours(model, examples, threat, seed))
        print(f"  ours seed {seed}: unbroken {mine[-1]['unbroken']}, {mine[-1]['seconds']:.1f} s", flush=True)
    if mine:
        price = statistics.median(run["backward_cost"] for run in mine)
        told = summary(mine, row["reference"], price, len(examples))
        keep(title, ours=mine, backward_cost=price, summary=told)
        print(json.dumps(told, indent=1), flush=True)


def summary(mine: list[dict[str, Any]], reference: list[dict[str, Any]], price: float, count: int) -> dict[str, Any]:
    """Medians over seeds."""

    def units(run: dict[str, Any]) -> float:
        return float(run["forwards"] + price * run["backwards"]) / count

    def median(runs: list[dict[str, Any]], key: str) -> float:
        return float(statistics.median(run[key] for run in runs))

    cost, reference_cost = (statistics.median(map(units, runs)) for runs in (mine, reference))
    return {
        "unbroken": median(mine, "unbroken"),
        "reference_unbroken": median(reference, "unbroken"),
        "units_per_image": cost,
        "reference_units_per_image": reference_cost,
        "ratio": cost / reference_cost,
        "ratio_with_checks": statistics.median(
            (run["whole_forwards"] + price * run["whole_backwards"]) / count for run in mine
        )
        / reference_cost,
        "proof_seconds": median(mine, "proof_seconds"),
        "seconds": median(mine, "seconds"),
        "reference_seconds": median(reference, "seconds"),
    }


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reference-seeds", type=int)
    parser.add_argument("--draw", type=int, default=0, help="0: what the suite was shaped on; 1: unseen")
    parser.add_argument("--threat", help="in place of each network's own")
    options = parser.parse_args()
    torch.manual_seed(0)
    for name in options.networks:
        threat = tb.Threat.parse(options.threat or NETWORKS[name].threat)
        title = f"{name}, {threat}" + (f", draw {options.draw}" if options.draw else "")
        print(title, flush=True)
        wanted = options.seeds if options.reference_seeds is None else options.reference_seeds
        examine(title, name, threat, options.draw, options.limit, options.seeds, wanted)


if __name__ == "__main__":
    main()
