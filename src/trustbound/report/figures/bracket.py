"""The bracket: certified ≤ truth ≤ unbroken, one stacked bar for each threat, with exact intervals."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trustbound.record.audit import Bracket
from trustbound.report.figures import marks
from trustbound.report.figures.canvas import SMALL, label, picture, sheet
from trustbound.report.figures.palette import colour
from trustbound.report.formatting import interval, share

WIDE, NARROW = 784.0, 328.0
_LETTER = 6.8  # mean width of a letter, in pixels
_TITLE = "Brackets: what is certified, unknown, broken and misclassified"


def bracket_picture(
    brackets: Sequence[Bracket],
    *,
    names: Sequence[str] = (),
    width: float = WIDE,
    name: str = "bracket",
    standalone: bool = True,
) -> str:
    """Draw brackets as an SVG, by default a file of its own that follows light and dark.

    Each bar holds all examples: certified, unknown, broken, misclassified from left to right. The certified
    share ends at the lower bound, the unknown one at the upper bound; below the bar both stand with their
    exact 95 % intervals.

    Parameters
        names   what to write above each bar; the threats' text forms by default.
        width   CSS pixels; below 500 the arrangement is that of a phone.

    >>> bracket = Bracket(threat="linf:0.1", lower=0.25, upper=0.75, lower_interval=(0.01, 0.8),
    ...     upper_interval=(0.2, 0.99), n=4, certified=1, broken=0, misclassified=1, unknown=2)
    >>> svg = bracket_picture([bracket])
    >>> "at least 25.0" in svg and "linf:0.1" in svg
    True
    """
    wide, left, extent = width >= 500, 8.0, width - 16.0
    beside = all(_beside(bracket, extent, wide) for bracket in brackets)
    top, pitch = 40.0 if wide else 62.0, 106.0 if beside else 140.0
    height = top + pitch * max(len(brackets), 1) + 34.0
    titles = tuple(names) or tuple(bracket.threat for bracket in brackets)

    def draw(figure: Figure) -> None:
        axes = sheet(figure, width, height)
        marks.legend(axes, left=8, top=6, columns=4 if wide else 2, pitch=150.0 if wide else 160.0)
        bottom = top + pitch * len(brackets)
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            x = left + extent * tick
            axes.plot([x, x], [top, bottom], color=colour("rule"), linewidth=0.8, zorder=0)
            side = "left" if tick == 0 else "right" if tick == 1 else "center"
            axes.text(x, bottom + 16, f"{tick:.0%}", ha=side, va="baseline", fontsize=SMALL, color=colour("muted"))
        for row, bracket in enumerate(brackets):
            _row(
                axes,
                bracket,
                titles[row],
                left=left,
                top=top + pitch * row,
                extent=extent,
                wide=wide,
                beside=beside,
            )

    return picture(
        draw,
        name=name,
        title=_TITLE,
        description=described(brackets, titles),
        width=width,
        height=height,
        standalone=standalone,
    )


def described(brackets: Sequence[Bracket], names: Sequence[str] = ()) -> str:
    """The picture in words."""
    titles = tuple(names) or tuple(bracket.threat for bracket in brackets)
    return (
        " ".join(
            f"{title}: of {b.n} examples {b.certified} certified, {b.unknown} unknown, {b.broken} broken, "
            f"{b.misclassified} misclassified; at least {share(b.lower)} (95 % interval "
            f"{interval(b.lower_interval)}), at most {share(b.upper)} ({interval(b.upper_interval)})."
            for title, b in zip(titles, brackets, strict=True)
        )
        or "No brackets were recorded."
    )


def _bounds(bracket: Bracket, wide: bool) -> tuple[tuple[str, float, tuple[float, float], str], ...]:
    """Both bounds: words, share, interval, role."""
    words = ("at least ", "at most ") if wide else ("≥ ", "≤ ")
    return tuple(
        (f"{word}{share(value)} ({interval(limits)})", value, limits, role)
        for word, value, limits, role in (
            (words[0], bracket.lower, bracket.lower_interval, "certified"),
            (words[1], bracket.upper, bracket.upper_interval, "ink"),
        )
    )


def _beside(bracket: Bracket, extent: float, wide: bool) -> bool:
    """Whether the words have room beside their intervals; wide intervals push them onto lines of their own."""
    return all(
        extent * max(limits[0], 1.0 - limits[1]) - 9 >= _LETTER * len(text)
        for text, _, limits, _ in _bounds(bracket, wide)
    )


def _row(
    axes: Axes,
    bracket: Bracket,
    title: str,
    *,
    left: float,
    top: float,
    extent: float,
    wide: bool,
    beside: bool,
) -> None:
    """One threat: name, bar, and below it the two bounds with their intervals."""
    axes.text(left, top + 18, label(title, 84 if wide else 38), va="baseline", fontsize=14, fontweight="bold")
    counts = {verdict: getattr(bracket, verdict) for verdict in ("certified", "unknown", "broken", "misclassified")}
    marks.stacked(axes, counts, left=left, top=top + 26, width=extent, height=24)
    for line, (text, value, limits, role) in enumerate(_bounds(bracket, wide)):
        level = top + 61 + line * (19 if beside else 37)
        low, point, high = (left + extent * each for each in (limits[0], value, limits[1]))
        marks.whisker(axes, low, point, high, level, role)
        right = left + extent - high >= low - left
        place = (high + 9 if right else low - 9) if beside else point
        middle = left + extent / 2
        side = ("left" if right else "right") if beside else ("left" if point < middle else "right")
        axes.text(
            place,
            level + (4.5 if beside else 19),
            text,
            ha=side,
            va="baseline",
            fontsize=SMALL,
            color=colour("ink"),
        )
