"""Risk and coverage: how many answers are wrong when only the most confident share is answered."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from trustbound.record.scores import Doubt
from trustbound.report.figures.canvas import SMALL, panel, picture, sheet
from trustbound.report.figures.palette import colour
from trustbound.report.figures.reliability import ROLE
from trustbound.report.numbers import number, share

_DASH = {"clean": "solid", "attacked": (0, (6, 2))}


def risk_picture(states: Sequence[tuple[str, Doubt]], *, width: float, name: str) -> str:
    """One line for each state over the coverage, with the area beneath it named."""
    height = 320.0

    def draw(figure: Figure) -> None:
        axes = panel(figure, (width, height), left=54, top=34, width=width - 54 - 16, height=height - 34 - 50)
        keys = sheet(figure, width, height)
        highest = 0.0
        for index, (state, doubt) in enumerate(states):
            points = doubt.risk_coverage
            highest = max([highest, *points.risk])
            axes.plot(
                points.coverage,
                points.risk,
                color=colour("ink" if state == "clean" else ROLE[state]),
                linestyle=_DASH[state],
                marker="o" if len(points.coverage) == 1 else None,
            )
            left = 54 + index * 150
            keys.plot(
                [left, left + 26],
                [15, 15],
                color=colour("ink" if state == "clean" else ROLE[state]),
                linestyle=_DASH[state],
            )
            keys.text(left + 33, 20, state, va="baseline", fontsize=SMALL)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, min(max(highest * 1.1, 0.02), 1.0))
        axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1.0]))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("coverage: share answered, surest first")
        axes.grid(axis="y")

    return picture(
        draw,
        name=name,
        title="Risk against coverage",
        description=" ".join(
            f"{state}: error {share(doubt.risk_coverage.risk[-1])} when all are answered, area under the "
            f"curve {number(doubt.aurc)}."
            for state, doubt in states
            if doubt.risk_coverage.risk
        ),
        width=width,
        height=height,
    )
