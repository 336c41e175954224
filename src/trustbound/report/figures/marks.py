"""The marks that several figures share: stacked verdict bars, whiskers, the legend of verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from trustbound.report.figures.canvas import SMALL
from trustbound.report.figures.palette import STACK, colour

_HATCH = dict(STACK)


def bar(axes: Axes, verdict: str, left: float, top: float, width: float, height: float, *, faint: bool = False) -> None:
    """A piece of a bar in the colour and hatching of a verdict."""
    if width <= 0.0:
        return
    axes.add_patch(
        Rectangle(
            (left, top),
            width,
            height,
            facecolor=colour(verdict),
            edgecolor=colour(f"{verdict}-stripe"),
            hatch=_HATCH[verdict] or None,
            linewidth=0.0,
            alpha=0.38 if faint else None,
        )
    )


def stacked(
    axes: Axes,
    counts: dict[str, int],
    *,
    left: float,
    top: float,
    width: float,
    height: float,
    numbered: bool = True,
) -> None:
    """A bar of all four verdicts, with each count inside its piece where there is room for it."""
    total = max(sum(counts.values()), 1)
    position = left
    for verdict, _ in STACK:
        piece = width * counts[verdict] / total
        bar(axes, verdict, position, top, piece, height)
        text = f"{counts[verdict]:,}"
        if numbered and piece >= 8.5 * len(text) + 6:
            axes.text(
                position + piece / 2,
                top + height / 2,
                text,
                ha="center",
                va="center_baseline",
                fontsize=SMALL,
                fontweight="bold",
                color=colour(f"on-{verdict}"),
            )
        if position > left and piece > 0:
            axes.plot([position, position], [top, top + height], color=colour("paper"), linewidth=1.2)
        position += piece


def whisker(axes: Axes, low: float, point: float, high: float, level: float, role: str) -> None:
    """A horizontal interval with its end caps and the point estimate on it."""
    axes.plot([low, high], [level, level], color=colour(role), linewidth=1.6)
    for end in (low, high):
        axes.plot([end, end], [level - 4, level + 4], color=colour(role), linewidth=1.6)
    axes.plot([point], [level], marker="o", markersize=6, color=colour(role), markeredgewidth=0)


def legend(axes: Axes, *, left: float, top: float, columns: int, pitch: float, names: Sequence[str] = ()) -> None:
    """Swatches of the four verdicts with their names, in rows of `columns`."""
    for index, (verdict, _) in enumerate(STACK):
        x, y = left + (index % columns) * pitch, top + (index // columns) * 22
        bar(axes, verdict, x, y, 18, 13)
        axes.text(
            x + 25,
            y + 6.5,
            names[index] if names else verdict,
            va="center_baseline",
            fontsize=SMALL,
            color=colour("ink"),
        )
