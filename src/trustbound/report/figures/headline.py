"""The bracket of one threat as the first thing on a page: one bar, and below it where the truth lies."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trustbound.record.audit import Bracket
from trustbound.report.figures import marks
from trustbound.report.figures.bracket import described
from trustbound.report.figures.canvas import SMALL, label, picture, sheet
from trustbound.report.figures.palette import STACK, colour

_BAR, _HEIGHT = 30.0, 66.0
_SAID = "the true share lies in here"
_WORDS = 178.0  # their width, in pixels


def headline_picture(bracket: Bracket, *, width: float, name: str) -> str:
    """Draw all examples as one bar by their verdict, and under it a brace over what is not known to be either.

    The brace runs from the lower bound to the upper one; where they are the same it is a single stroke.

    >>> bracket = Bracket(threat="linf:0.1", lower=0.25, upper=0.75, lower_interval=(0.01, 0.8),
    ...     upper_interval=(0.2, 0.99), n=4, certified=1, broken=0, misclassified=1, unknown=2)
    >>> "the true share lies in here" in headline_picture(bracket, width=784, name="first")
    True
    """

    def draw(figure: Figure) -> None:
        axes = sheet(figure, width, _HEIGHT)
        counts = {verdict: getattr(bracket, verdict) for verdict, _ in STACK}
        marks.stacked(axes, counts, left=0, top=0, width=width, height=_BAR)
        _brace(axes, bracket, width)

    return picture(
        draw,
        name=name,
        title=f"Bracket under {label(bracket.threat)}",
        description=described([bracket]),
        width=width,
        height=_HEIGHT,
    )


def _brace(axes: Axes, bracket: Bracket, width: float) -> None:
    """From bound to bound, with its words below, pushed inwards where they would leave the drawing."""
    top, level = _BAR + 4, _BAR + 12
    low, high = (min(max(width * each, 1.0), width - 1.0) for each in (bracket.lower, bracket.upper))
    axes.plot([low, low, high, high], [top, level, level, top], color=colour("ink"), linewidth=1.6)
    middle = (low + high) / 2
    axes.plot([middle, middle], [level, level + 4], color=colour("ink"), linewidth=1.6)
    said = _SAID if bracket.lower < bracket.upper else "this is the true share"
    place = min(max(middle, _WORDS / 2), width - _WORDS / 2)
    axes.text(place, level + 18, said, ha="center", va="baseline", fontsize=SMALL, color=colour("muted"))
