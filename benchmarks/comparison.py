"""Table and curves of `benchmarks.upper_bound`, from the results it kept.

    python -m benchmarks.comparison

writes the tables into benchmarks/README.md and the curves to benchmarks/results/upper_bound.svg.

Each curve is the seed of median cost: unbroken images against evaluations spent per image, attack by attack.
"""

from __future__ import annotations

import json
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.page import fill
from benchmarks.upper_bound import RESULTS
from trustbound.report.figures.canvas import SMALL, panel, picture, sheet
from trustbound.report.figures.palette import colour

TITLES = {
    "mnist-cnn-hardened": "CNN hardened with FGSM-RS",
    "mnist-cnn": "CNN",
    "mnist-fc": "784-200-200-10",
    "colour-resnet-silu": "SiLU + batch-norm ResNet, `cifar10-jpeg`",
    "colour-vit": "small ViT, `cifar10-jpeg`",
}
WIDTH, ROW, COLUMNS = 900.0, 220.0, 3


def rows(draw: int) -> list[dict[str, Any]]:
    """The finished comparisons of one draw, in the order of the networks."""
    kept = json.loads(RESULTS.read_text()).values()
    finished = [row for row in kept if row.get("draw", 0) == draw and "summary" in row]
    return sorted(finished, key=lambda row: (list(TITLES).index(row["network"]), row["threat"]))


def named(row: dict[str, Any]) -> str:
    """Network and threat."""
    norm, _, epsilon = row["threat"].partition(":")
    return f"{TITLES[row['network']]}, {norm.replace('linf', 'l∞')} {epsilon}"


def table(draw: int) -> str:
    """One draw as Markdown."""
    lines = [
        "| network, threat | images | ours unbroken | reference unbroken | our units per image | reference "
        "| share of its cost | with checks |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows(draw):
        told = row["summary"]
        ours, theirs = (", ".join(str(run["unbroken"]) for run in row[side]) for side in ("ours", "reference"))
        lines.append(
            f"| {named(row)} | {row['examples']:,} | {told['unbroken']:g} ({ours}) | "
            f"{told['reference_unbroken']:g} ({theirs}) | {told['units_per_image']:,.0f} | "
            f"{told['reference_units_per_image']:,.0f} | {100 * told['ratio']:.1f} % | "
            f"{100 * told['ratio_with_checks']:.1f} % |"
        )
    return "\n".join(lines)


def trail(row: dict[str, Any], side: str) -> tuple[list[float], list[int]]:
    """Evaluations per image and unbroken images after each attack, of the seed of median cost."""
    price, images = row["backward_cost"], row["examples"]
    runs = sorted(row[side], key=lambda run: run["forwards"] + price * run["backwards"])
    run = runs[(len(runs) - 1) // 2]
    spent, left = [], []
    total = 0.0
    for step in run["trail"]:
        total += (step["forwards"] + price * step["backwards"]) / images
        spent.append(total)
        left.append(step["unbroken"])
    return spent, left


def curves(draw: int) -> str:
    """One small panel a comparison."""
    compared = rows(draw)
    height = 34.0 + ROW * -(-len(compared) // COLUMNS)
    wide = WIDTH / COLUMNS

    def drawing(figure: Figure) -> None:
        legend = sheet(figure, WIDTH, height)
        for place, (role, text) in enumerate(
            (("certified", "trustbound, standard"), ("broken", "reference AutoAttack"))
        ):
            left = 54.0 + 190 * place
            legend.plot([left, left + 18], [16, 16], color=colour(role), linewidth=2.5)
            legend.text(left + 24, 20, text, va="baseline", fontsize=SMALL, color=colour("ink"))
        for place, row in enumerate(compared):
            top, left = 34 + ROW * (place // COLUMNS), wide * (place % COLUMNS)
            axes = panel(figure, (WIDTH, height), left=left + 54, top=top + 26, width=wide - 68, height=ROW - 74)
            for side, role, mark in (("ours", "certified", "o"), ("reference", "broken", "s")):
                spent, unbroken = trail(row, side)
                axes.plot(spent, unbroken, mark, color=colour(role), markersize=4.0, markeredgewidth=0)
                axes.step(spent, unbroken, where="post", color=colour(role), linewidth=1.8)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            ends = row["summary"]["unbroken"], row["summary"]["reference_unbroken"]
            floor, reach = min(ends), max(trail(row, "reference")[1][0] - min(ends), 4)
            axes.set_ylim(floor - 0.25 * reach, floor + 1.75 * reach)
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(axis="y")
            axes.set_title(named(row).replace(" `cifar10-jpeg`,", ""), fontsize=SMALL, loc="left")
            axes.set_xlabel("evaluations per image", fontsize=SMALL)
            axes.set_ylabel("unbroken", fontsize=SMALL)

    said = [
        f"{named(row)}: {row['summary']['unbroken']:g} against {row['summary']['reference_unbroken']:g} unbroken at "
        f"{100 * row['summary']['ratio']:.1f} % of the cost."
        for row in compared
    ]
    return picture(
        drawing,
        name="comparison",
        title="Unbroken images against evaluations",
        description=" ".join(said),
        width=WIDTH,
        height=height,
        standalone=True,
    )


def main() -> None:
    """Write both."""
    for draw in (0, 1):
        fill(f"comparison-{draw}", table(draw))
    newest = 1 if rows(1) else 0
    RESULTS.with_suffix(".svg").write_text(curves(newest), encoding="utf-8")


if __name__ == "__main__":
    main()
