"""What the rounds find under l∞, and what they cost: the `standard` search with and without them, on the same images.

    python -m benchmarks.linf_rounds [--seeds 3] [--draw 1] [NETWORK …]
    python -m benchmarks.linf_rounds --write

The networks, images and threats are those of `benchmarks.upper_bound`. Unit = one forward; a backward costs r units,
r measured here. Aimed at: with the rounds no image more stands, at 1.1 times the cost at most.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import trustbound as tb
from benchmarks.comparison import TITLES
from benchmarks.networks import NETWORKS, data, load
from benchmarks.page import fill
from benchmarks.upper_bound import ours
from trustbound.attacks import suites

RESULTS = Path(__file__).parent / "results" / "linf_rounds.json"
ROWS = (
    ("mnist-cnn-hardened", "linf:0.3", 1000),
    ("mnist-cnn", "linf:0.1", 1000),
    ("mnist-fc", "linf:0.05", 1000),
    ("mnist-fc", "linf:0.1", 1000),
    ("colour-resnet-silu", "linf:4/255", 300),
    ("colour-vit", "linf:4/255", 300),
)


def searched(name: str, threat: tb.Threat, limit: int, draw: int, seeds: int, rounds: suites.Rounds) -> list[Any]:
    """The search's runs with these rounds, one a seed."""
    model, examples = load(name, draw), data(NETWORKS[name], "test", limit, draw)
    kept = suites._OWN_ROUNDS["standard", "linf"]
    suites._OWN_ROUNDS["standard", "linf"] = rounds
    try:
        return [ours(model, examples, threat, seed) for seed in range(seeds)]
    finally:
        suites._OWN_ROUNDS["standard", "linf"] = kept


def told(runs: list[dict[str, Any]], price: float, limit: int) -> dict[str, Any]:
    """Medians over seeds."""
    units = [(run["forwards"] + price * run["backwards"]) / limit for run in runs]
    unbroken = [run["unbroken"] for run in runs]
    return {"unbroken": unbroken, "median": statistics.median(unbroken), "units": statistics.median(units)}


def table() -> str:
    """What was kept, as Markdown."""
    lines = [
        "| network, threat | images | unbroken without rounds | with them | units per image without | with | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in json.loads(RESULTS.read_text()).values():
        without, with_them = row["without"], row["with"]
        threat = row["threat"].replace("linf:", "l∞ ")
        lines.append(
            f"| {TITLES[row['network']]}, {threat} | {row['examples']:,} | {without['median']:g} "
            f"({', '.join(map(str, without['unbroken']))}) | {with_them['median']:g} "
            f"({', '.join(map(str, with_them['unbroken']))}) | {without['units']:,.0f} | {with_them['units']:,.0f} | "
            f"{with_them['units'] / without['units']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run, print, keep; or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--draw", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="only write the table into benchmarks/README.md")
    options = parser.parse_args()
    for name, threat, limit in () if options.write else ROWS:
        if options.networks and name not in options.networks:
            continue
        sides = {
            side: searched(name, tb.Threat.parse(threat), limit, options.draw, options.seeds, rounds)
            for side, rounds in (("without", suites.Rounds()), ("with", suites._OWN_ROUNDS["standard", "linf"]))
        }
        price = statistics.median(run["backward_cost"] for runs in sides.values() for run in runs)
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        row = {"network": name, "threat": threat, "draw": options.draw, "examples": limit, "backward_cost": price}
        row |= {side: told(runs, price, limit) for side, runs in sides.items()}
        kept[f"{name}, {threat}, draw {options.draw}"] = row
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        print(json.dumps(row), flush=True)
    written = table()
    print(written)
    if options.write:
        fill("linf-rounds", written)


if __name__ == "__main__":
    main()
