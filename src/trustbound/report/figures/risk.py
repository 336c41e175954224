"""Risk and coverage: how many answers are wrong when only the most confident share is answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from trustbound.record.scores import CalibrationScores
from trustbound.report.figures.canvas import SMALL, label, panel, picture, sheet
from trustbound.report.figures.palette import colour
from trustbound.report.figures.reliability import role
from trustbound.report.formatting import number, share

#: Clean is solid; each attack has a dash of its own, because colour alone must not tell lines apart.
_DASHES = ((0, (6, 2)), (0, (2, 2)), (0, (8, 2, 2, 2)), (0, (8, 2, 2, 2, 2, 2)))
_PITCH, _LINE = 165.0, 18.0


def risk_picture(states: Sequence[tuple[str, CalibrationScores]], *, width: float, name: str) -> str:
    """One line for each state over the coverage, with the area beneath it named."""
    across = max(1, int((width - 54) // _PITCH))
    top = 16 + _LINE * -(-len(states) // across)
    height = 286.0 + top

    def draw(figure: Figure) -> None:
        axes = panel(figure, (width, height), left=54, top=top, width=width - 54 - 16, height=height - top - 50)
        keys = sheet(figure, width, height)
        highest = 0.0
        for index, (state, scores) in enumerate(states):
            points = scores.risk_coverage
            highest = max([highest, *points.risk])
            clean = state == "clean"
            look: dict[str, Any] = {
                "color": colour("ink" if clean else role(state)),
                "linestyle": "solid" if clean else _DASHES[(index - 1) % len(_DASHES)],
            }
            marker = "o" if len(points.coverage) == 1 else None
            axes.plot(points.coverage, points.risk, marker=marker, **look)
            left, line = 54 + (index % across) * _PITCH, 15 + _LINE * (index // across)
            keys.plot([left, left + 26], [line, line], **look)
            keys.text(left + 33, line + 5, label(state, 22), va="baseline", fontsize=SMALL)
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
            f"{state}: error {share(scores.risk_coverage.risk[-1])} when all are answered, area under the "
            f"curve {number(scores.aurc)}."
            for state, scores in states
            if scores.risk_coverage.risk
        ),
        width=width,
        height=height,
    )
