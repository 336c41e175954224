"""The security curve: both bounds at every epsilon at once, and the unknown between them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from trustbound.record.audit import Curve
from trustbound.report.figures import marks
from trustbound.report.figures.canvas import SMALL, label, panel, picture, sheet
from trustbound.report.figures.palette import colour
from trustbound.report.formatting import number, share


def curve_picture(curve: Curve, epsilons: Sequence[tuple[str, float]], *, axis: str, width: float, name: str) -> str:
    """Draw one norm's curve; `epsilons` are the threats of the audit, marked where they lie, `axis` names sizes.

    Robust accuracy never grows with epsilon. So between two measured sizes the upper bound of the smaller
    one and the lower bound of the larger one hold: the steps drawn are bounds everywhere, not only where
    they were measured.
    """
    height = 330.0 if width >= 500 else 290.0
    marked = [(threat, size) for threat, size in epsilons if size <= max(curve.epsilons, default=0.0)]

    def draw(figure: Figure) -> None:
        axes = panel(figure, (width, height), left=54, top=36, width=width - 54 - 14, height=height - 36 - 50)
        order = sorted(range(len(curve.epsilons)), key=lambda i: curve.epsilons[i])
        x = [curve.epsilons[i] for i in order]
        upper, lower = ([values[i] for i in order] for values in (curve.upper, curve.lower))
        fine_x = [value for value in x for _ in (0, 1)]
        fine_upper, fine_lower = stairs(upper, after=True), stairs(lower, after=False)
        axes.fill_between(
            fine_x, 0, fine_lower, facecolor=colour("certified"), edgecolor="none", alpha=0.18, linewidth=0
        )
        axes.fill_between(
            fine_x,
            fine_lower,
            fine_upper,
            facecolor=colour("unknown"),
            edgecolor=colour("unknown-stripe"),
            hatch="/",
            linewidth=0.0,
        )
        for values, ends, side, role in (
            (fine_upper, curve.upper_interval, 1, "broken"),
            (fine_lower, curve.lower_interval, 0, "certified"),
        ):
            axes.plot(fine_x, values, color=colour(role), linewidth=2.2)
            limits = stairs([ends[i][side] for i in order], after=side == 1)
            axes.plot(fine_x, limits, color=colour(role), linewidth=1.0, linestyle=(0, (2, 2)))
        if len(x) <= 30:
            axes.plot(x, upper, "o", color=colour("broken"), markersize=4.5, markeredgewidth=0)
            axes.plot(x, lower, "s", color=colour("certified"), markersize=4.5, markeredgewidth=0)
        span = (max(x) - min(x)) or 1.0
        for threat, size in marked:
            axes.axvline(size, color=colour("ink"), linewidth=1.2, linestyle=(0, (5, 3)))
            late = size - min(x) > span * 0.6
            axes.annotate(
                label(threat, 24),
                (size, 1.0),
                xytext=(-5 if late else 5, -4),
                textcoords="offset points",
                ha="right" if late else "left",
                va="top",
                fontsize=SMALL,
                fontweight="bold",
            )
        axes.set_ylim(0.0, 1.0)
        axes.set_xlim(min(x), max(x) if len(set(x)) > 1 else min(x) + 1.0)
        axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1.0]))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(7 if width >= 500 else 4))
        axes.set_xlabel(f"allowed change, {label(axis, 40 if width >= 500 else 26)}")
        axes.grid(axis="y")
        _legend(figure, width, height)

    return picture(
        draw,
        name=name,
        title=f"Security curve, {label(axis)}",
        description=_described(curve),
        width=width,
        height=height,
    )


def _legend(figure: Figure, width: float, height: float) -> None:
    """What the two lines and the band are, above the frame."""
    axes = sheet(figure, width, height)
    pitch = 130.0 if width >= 500 else 96.0
    for index, (role, text) in enumerate(
        (("broken", "not broken"), ("unknown", "unknown"), ("certified", "certified"))
    ):
        left = 54 + index * pitch
        if role == "unknown":
            marks.bar(axes, role, left, 9, 16, 11)
        else:
            axes.plot([left, left + 16], [15, 15], color=colour(role), linewidth=2.5)
        axes.text(left + 22, 20, text, va="baseline", fontsize=SMALL, color=colour("ink"))


def stairs(values: Sequence[float], *, after: bool) -> list[float]:
    """Heights of a staircase on the corners x[0], x[0], x[1], x[1], …

    With `after` a value holds from its x on to the next one (an upper bound of what only falls), without it
    from the x before up to its own (a lower bound).

    >>> stairs([1.0, 0.5, 0.2], after=True)
    [1.0, 1.0, 1.0, 0.5, 0.5, 0.2]
    >>> stairs([1.0, 0.5, 0.2], after=False)
    [1.0, 0.5, 0.5, 0.2, 0.2, 0.2]
    """
    last = len(values) - 1
    if after:
        return [values[at] for i in range(len(values)) for at in (max(i - 1, 0), i)]
    return [values[at] for i in range(len(values)) for at in (i, min(i + 1, last))]


def _described(curve: Curve) -> str:
    """The curve in words: its ends, and where it is widest open."""
    if not curve.epsilons:
        return "No sizes were recorded."
    gaps = [high - low for high, low in zip(curve.upper, curve.lower, strict=True)]
    widest = max(range(len(gaps)), key=lambda i: gaps[i])
    last = max(range(len(gaps)), key=lambda i: curve.epsilons[i])
    return (
        f"Shares of {curve.n} examples over the allowed change from {number(min(curve.epsilons))} to "
        f"{number(max(curve.epsilons))}. At the largest, {share(curve.upper[last])} are not broken and "
        f"{share(curve.lower[last])} are certified. The unknown is widest at "
        f"{number(curve.epsilons[widest])}: {share(gaps[widest])}."
    )
