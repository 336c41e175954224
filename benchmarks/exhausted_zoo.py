"""Does `search-exhausted` fire where a search stops while it finds, and keep still where it does not?

    python -m benchmarks.exhausted_zoo [--draw 1] [NETWORK …]      kept run by run in results/exhausted_zoo.json
    python -m benchmarks.exhausted_zoo --write                     the table in benchmarks/README.md

Each network of `benchmarks.other_networks` under its l2 and l1 threat, 300 images: once with the `standard` search as
it was before it had rounds, FAB, the walk and the sparse climbs, once as it is. Networks that were hardened fast
against l∞ may hide their gradients, plain ones do not. Draw 0 is what the check was shaped on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

import trustbound as tb
from benchmarks.other_networks import OTHERS, load_other, other_data
from benchmarks.page import fill
from trustbound.attacks import suites
from trustbound.attacks.suites import Rounds

RESULTS = Path(__file__).parent / "results" / "exhausted_zoo.json"


def audited(model: tb.Model, examples: tb.LabelledSet, threat: str, rounds: bool) -> dict[str, Any]:
    """What one audit left unbroken, and what its check says."""
    old = {"standard": Rounds()} if not rounds else {}
    own = {} if rounds else {"clear": True}
    with (
        mock.patch.dict(suites._ROUNDS, old),
        mock.patch.dict(suites._OWN, {}, **own),
        mock.patch.dict(suites._OWN_ROUNDS, {}, **own),
    ):
        record = tb.audit(model, examples, [threat], budget="standard", curve_examples=0, batch_size=250)
    bracket = record.brackets[0]
    check = next(one for one in record.checks if one.name == "search-exhausted")
    return {
        "unbroken": bracket.certified + bracket.unknown,
        "verdict": check.verdict,
        "share": check.value,
        "finding": check.finding,
    }


def table(kept: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| draw | network, threat | before: unbroken | its check | last round | now: unbroken | check | last round |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, row in sorted(kept.items()):
        cells = [
            f"{row[side]['unbroken']} | {row[side]['verdict']} | {100 * (row[side]['share'] or 0.0):.1f} %"
            for side in ("before", "now")
        ]
        draw, _, rest = title.partition(" ")
        lines.append(f"| {draw} | {rest} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.write:
        fill("exhausted-zoo", table(kept))
        return
    for (name, draw), other in OTHERS.items():
        if draw != options.draw or (options.networks and name not in options.networks):
            continue
        model, examples = load_other(name, draw), other_data(other, "test", 300)
        for threat in other.threats:
            title = f"{draw} {other.title}, {threat}"
            if title not in kept:
                runs = {side: audited(model, examples, threat, side == "now") for side in ("before", "now")}
                kept[title] = runs
                RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
                print(title, [(run["unbroken"], run["verdict"], run["finding"]) for run in runs.values()], flush=True)


if __name__ == "__main__":
    main()
