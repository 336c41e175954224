"""Our `standard` search beside the reference AutoAttack: unbroken counts and evaluations, on the same images.

    python -m benchmarks.upper_bound [NETWORK …] [--limit 1000] [--seeds 3]

Unit = one forward; a backward costs r units, r measured here. Proofs are no part of the search and are timed apart.
Results are added to `benchmarks/results/upper_bound.json` network by network, so that a stopped run loses nothing.
"""

from __future__ import annotations

import argparse
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
    """The standard audit; its search (attacks and controls), its health checks and its proofs priced apart."""
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


def examine(
    name: str, threat: tb.Threat, limit: int, seeds: int, reference_seeds: int, kept: dict[str, Any]
) -> dict[str, Any]:
    """One network, both searches, several seeds; runs of the reference that were kept are not repeated."""
    network = NETWORKS[name]
    model, examples = load(name), data(network, "test", limit)
    mine = [ours(model, examples, threat, seed) for seed in range(seeds)]
    price = statistics.median(run["backward_cost"] for run in mine)
    for run in mine:
        print(f"  ours seed {run['seed']}: unbroken {run['unbroken']}, {run['seconds']:.1f} s", flush=True)
    theirs = [run for run in kept.get("reference", []) if kept["examples"] == limit]
    for seed in range(len(theirs), reference_seeds):
        found = autoattack(model, examples.inputs, examples.labels, threat.allowed.norm, threat.allowed.epsilon, seed)
        theirs.append(
            {
                "seed": seed,
                "unbroken": int(found.unbroken.sum()),
                "rows": found.unbroken.nonzero()[:, 0].tolist(),
                "forwards": found.forwards,
                "backwards": found.backwards,
                "seconds": found.seconds,
                "trail": found.trail,
            }
        )
    return {
        "network": name,
        "threat": str(threat),
        "examples": len(examples),
        "backward_cost": price,
        "ours": mine,
        "reference": theirs,
        "summary": summary(mine, theirs, price, len(examples)),
    }


def summary(mine: list[dict[str, Any]], theirs: list[dict[str, Any]], price: float, count: int) -> dict[str, Any]:
    """Medians over seeds."""

    def units(run: dict[str, Any]) -> float:
        return float(run["forwards"] + price * run["backwards"]) / count

    def median(runs: list[dict[str, Any]], key: str) -> float:
        return float(statistics.median(run[key] for run in runs))

    cost, reference = (statistics.median(map(units, runs)) for runs in (mine, theirs))
    return {
        "unbroken": median(mine, "unbroken"),
        "reference_unbroken": median(theirs, "unbroken"),
        "units_per_image": cost,
        "reference_units_per_image": reference,
        "ratio": cost / reference,
        "ratio_with_checks": statistics.median(
            (run["whole_forwards"] + price * run["whole_backwards"]) / count for run in mine
        )
        / reference,
        "proof_seconds": median(mine, "proof_seconds"),
        "seconds": median(mine, "seconds"),
        "reference_seconds": median(theirs, "seconds"),
    }


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reference-seeds", type=int)
    parser.add_argument("--threat", help="in place of each network's own")
    options = parser.parse_args()
    torch.manual_seed(0)
    for name in options.networks:
        threat = tb.Threat.parse(options.threat or NETWORKS[name].threat)
        title = f"{name}, {threat}"
        print(title, flush=True)
        wanted = options.seeds if options.reference_seeds is None else options.reference_seeds
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        result = examine(name, threat, options.limit, options.seeds, wanted, kept.get(title, {}))
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # others may have written meanwhile
        kept[title] = result
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        print(json.dumps(result["summary"], indent=1), flush=True)


if __name__ == "__main__":
    main()
