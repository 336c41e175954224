"""Reliability diagrams: what confidence promised and what came true, clean and attacked."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from trustbound.record.scores import CalibrationScores
from trustbound.report.figures.canvas import SMALL, TEXT, label, panel, picture
from trustbound.report.figures.palette import colour
from trustbound.report.formatting import number

_QUARTERS = [0.0, 0.25, 0.5, 0.75, 1.0]
_LEFT, _ROUND = 50.0, 140.0  # room for numbers on the left; above, between and below the two panels


def role(state: str) -> str:
    """What a state is drawn in: neutral ink when nobody interferes, the colour of breaking otherwise."""
    return "muted" if state == "clean" else "broken"


def reliability_picture(states: Sequence[tuple[str, CalibrationScores]], *, width: float, name: str) -> str:
    """One diagram for each state, up to three side by side on wide pages; below each, where the examples are."""
    across = min(len(states), 3) if width >= 500 else 1
    side = min(width / across - _LEFT - 16, 262.0)
    cell = (width / across, side * 0.88 + _ROUND)
    height = cell[1] * -(-len(states) // across)

    def draw(figure: Figure) -> None:
        for index, (state, scores) in enumerate(states):
            left = cell[0] * (index % across)
            top = cell[1] * (index // across)
            _diagram(figure, (width, height), state, scores, left=left, top=top, side=side)

    return picture(
        draw,
        name=name,
        title="Reliability: accuracy against confidence",
        description=" ".join(
            f"{state}: expected calibration error {number(scores.ece)} on {scores.n} examples, mean confidence "
            f"{number(scores.mean_confidence)}, accuracy {number(scores.accuracy)}."
            for state, scores in states
        ),
        width=width,
        height=height,
    )


def _diagram(
    figure: Figure,
    size: tuple[float, float],
    state: str,
    scores: CalibrationScores,
    *,
    left: float,
    top: float,
    side: float,
) -> None:
    """Bars of accuracy with exact intervals against the diagonal, and the counts beneath."""
    upper = side * 0.88
    axes = panel(figure, size, left=left + _LEFT, top=top + 32, width=side, height=upper)
    filled = [each for each in scores.reliability.bins if each.count and each.accuracy is not None]
    axes.plot([0, 1], [0, 1], color=colour("ink"), linewidth=1.2, linestyle=(0, (5, 3)), zorder=3)
    for each in filled:
        accuracy = each.accuracy or 0.0
        axes.bar(
            each.low,
            accuracy,
            width=each.high - each.low,
            align="edge",
            facecolor=colour(role(state)),
            alpha=0.45,
            edgecolor=colour("paper"),
            linewidth=1.0,
        )
        middle = (each.low + each.high) / 2
        axes.plot([middle, middle], each.interval, color=colour("muted"), linewidth=1.1, zorder=4)
        axes.plot([middle], [accuracy], "o", color=colour("ink"), markersize=3.5, markeredgewidth=0, zorder=5)
    _frame(axes)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_locator(FixedLocator(_QUARTERS))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_ticklabels([])
    figure.text(
        (left + _LEFT) / size[0],
        1 - (top + 20) / size[1],
        label(state, 24),
        va="baseline",
        fontsize=TEXT,
        fontweight="bold",
    )
    counts = panel(figure, size, left=left + _LEFT, top=top + upper + 42, width=side, height=40)
    for each in filled:
        counts.bar(
            each.low,
            each.count,
            width=each.high - each.low,
            align="edge",
            facecolor=colour(role(state)),
            edgecolor=colour("paper"),
            linewidth=1.0,
        )
    _frame(counts)
    most = max((each.count for each in filled), default=1)
    counts.set_ylim(0, most * 1.05)
    counts.yaxis.set_major_locator(FixedLocator([most]) if filled else NullLocator())
    counts.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    counts.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    counts.set_xlabel("confidence, examples below", fontsize=SMALL)


def _frame(axes: Axes) -> None:
    """The axis of confidence."""
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(FixedLocator(_QUARTERS))
