"""Our `standard` search beside the original AutoAttack under l2 and l1, on networks hardened against l∞ and plain ones.

    python -m benchmarks.other_norms --draw 1 --limit 300 --seeds 3 --reference-seeds 3 [NETWORK …] [--threats l2:1 …]
    python -m benchmarks.other_norms --write

The first runs what `benchmarks/results/other_norms.json` lacks and keeps each run as it is made; `--seeds 0` runs the
reference alone, `--again` throws our runs away before (a search that has changed). The second writes the tables into
benchmarks/README.md and the curves of draw 1 to benchmarks/results/other_norms.svg.

Aimed at: median unbroken at most one image above the reference's, at 1/10 of its cost where it spends 3,000 units an
image or more, at half of it elsewhere. Unit = one forward; a backward costs r units, r measured in our runs.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

import trustbound as tb
from benchmarks.comparison import trail
from benchmarks.other_networks import OTHERS, load_other, other_data
from benchmarks.page import fill
from benchmarks.reference_norms import autoattack
from benchmarks.upper_bound import ours, summary
from trustbound.report.figures.canvas import SMALL, panel, picture, sheet
from trustbound.report.figures.palette import colour

RESULTS = Path(__file__).parent / "results" / "other_norms.json"
WIDTH, ROW, COLUMNS = 900.0, 200.0, 3
DEAR = 3000.0


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


def examine(name: str, draw: int, threat: tb.Threat, limit: int, seeds: int, reference_seeds: int, again: bool) -> None:
    """One network and threat, both searches; runs that were kept are not repeated."""
    title = f"{name}, {threat}, draw {draw}, {limit} images"
    print(title, flush=True)
    other = OTHERS[name, draw]
    model, examples = load_other(name, draw), other_data(other, "test", limit)
    with torch.no_grad():
        clean = int((model(examples.inputs).argmax(dim=1) == examples.labels).sum())
    row = keep(title, network=name, draw=draw, threat=str(threat), examples=len(examples), clean=clean)
    for seed in range(len(row.get("reference", [])), reference_seeds):
        row = keep(title, reference=[*row.get("reference", []), theirs(model, examples, threat, seed)])
    if again:
        row = keep(title, ours=[])
    for seed in range(len(row.get("ours", [])), seeds):
        row = keep(title, ours=[*row.get("ours", []), ours(model, examples, threat, seed)])
        run = row["ours"][-1]
        print(f"  ours seed {seed}: unbroken {run['unbroken']}, {run['seconds']:.1f} s", flush=True)
    if row.get("ours") and row.get("reference"):
        price = statistics.median(run["backward_cost"] for run in row["ours"])
        told = summary(row["ours"], row["reference"], price, len(examples))
        keep(title, backward_cost=price, summary=told)
        print(json.dumps(told, indent=1), flush=True)


def rows(draw: int) -> list[dict[str, Any]]:
    """The finished comparisons of one draw, in the order of the networks."""
    kept = json.loads(RESULTS.read_text()).values() if RESULTS.exists() else ()
    finished = [row for row in kept if row["draw"] == draw and "summary" in row]
    return sorted(finished, key=lambda row: (list(OTHERS).index((row["network"], draw)), row["threat"]))


def named(row: dict[str, Any]) -> str:
    """Network and threat."""
    return f"{OTHERS[row['network'], row['draw']].title}, {row['threat'].replace(':', ' ')}"


def allowed(row: dict[str, Any]) -> float:
    """The share of the reference's cost that is aimed at."""
    return 0.1 if row["summary"]["reference_units_per_image"] >= DEAR else 0.5


def table(draw: int) -> str:
    """One draw as Markdown."""
    lines = [
        "| network, threat | images, clean | ours unbroken | reference unbroken | our units per image | reference "
        "| share of its cost | aimed at | met |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows(draw):
        told = row["summary"]
        mine, reference = (", ".join(str(run["unbroken"]) for run in row[side]) for side in ("ours", "reference"))
        met = told["unbroken"] <= told["reference_unbroken"] + 1 and told["ratio"] <= allowed(row)
        lines.append(
            f"| {named(row)} | {row['examples']}, {row['clean']} | {told['unbroken']:g} ({mine}) | "
            f"{told['reference_unbroken']:g} ({reference}) | {told['units_per_image']:,.0f} | "
            f"{told['reference_units_per_image']:,.0f} | {100 * told['ratio']:.1f} % | {100 * allowed(row):.0f} % | "
            f"{'yes' if met else '**no**'} |"
        )
    return "\n".join(lines)


def curves(draw: int) -> str:
    """One small panel a comparison: unbroken images against evaluations, each side's seed of median cost."""
    compared = rows(draw)
    height = 34.0 + ROW * -(-len(compared) // COLUMNS)
    wide = WIDTH / COLUMNS

    def drawing(figure: Figure) -> None:
        legend = sheet(figure, WIDTH, height)
        sides = (("ours", "certified", "o", "trustbound, standard"), ("reference", "broken", "s", "AutoAttack"))
        for place, (_, role, _, text) in enumerate(sides):
            left = 54.0 + 190 * place
            legend.plot([left, left + 18], [16, 16], color=colour(role), linewidth=2.5)
            legend.text(left + 24, 20, text, va="baseline", fontsize=SMALL, color=colour("ink"))
        for place, row in enumerate(compared):
            top, left = 34 + ROW * (place // COLUMNS), wide * (place % COLUMNS)
            axes = panel(figure, (WIDTH, height), left=left + 54, top=top + 26, width=wide - 68, height=ROW - 74)
            for side, role, mark, _ in sides:
                spent, unbroken = trail(row, side)
                axes.plot(spent, unbroken, mark, color=colour(role), markersize=4.0, markeredgewidth=0)
                axes.step(spent, unbroken, where="post", color=colour(role), linewidth=1.8)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            ends = row["summary"]["unbroken"], row["summary"]["reference_unbroken"]
            reach = max(trail(row, "reference")[1][0] - min(ends), 4)
            axes.set_ylim(min(ends) - 0.25 * reach, min(ends) + 1.75 * reach)
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(axis="y")
            axes.set_title(named(row), fontsize=SMALL, loc="left")
            axes.set_xlabel("evaluations per image", fontsize=SMALL)
            axes.set_ylabel("unbroken", fontsize=SMALL)

    said = [
        f"{named(row)}: {row['summary']['unbroken']:g} against {row['summary']['reference_unbroken']:g} unbroken at "
        f"{100 * row['summary']['ratio']:.1f} % of the cost."
        for row in compared
    ]
    return picture(
        drawing,
        name="other-norms",
        title="Unbroken images against evaluations under l2 and l1",
        description=" ".join(said),
        width=WIDTH,
        height=height,
        standalone=True,
    )


def write() -> None:
    """Tables and curves, into the page where it has a place for them."""
    for draw in (0, 1, 2, 3):
        told = table(draw)
        print(told)
        fill(f"other-norms-{draw}", told)
    if rows(1):
        RESULTS.with_suffix(".svg").write_text(curves(1), encoding="utf-8")


def main() -> None:
    """Run, print, keep; or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--draw", type=int, default=0, help="0 and 1: for shaping; 2 and 3: unseen")
    parser.add_argument("--limit", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=1, help="of ours; 0 for none")
    parser.add_argument("--reference-seeds", type=int, default=1)
    parser.add_argument("--threats", nargs="*", help="in place of each network's own")
    parser.add_argument("--again", action="store_true", help="throw our kept runs away first")
    parser.add_argument("--write", action="store_true", help="only write tables and curves")
    options = parser.parse_args()
    if options.write:
        write()
        return
    torch.manual_seed(0)
    for (name, draw), other in OTHERS.items():
        if draw == options.draw and (not options.networks or name in options.networks):
            for text in options.threats or other.threats:
                threat = tb.Threat.parse(text)
                examine(name, draw, threat, options.limit, options.seeds, options.reference_seeds, again=options.again)


if __name__ == "__main__":
    main()
