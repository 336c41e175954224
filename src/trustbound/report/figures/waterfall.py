"""The search as a waterfall: how the unknown shrinks, attack by attack and proof by proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trustbound.record.audit import Bracket, StageFacts
from trustbound.report.figures import marks
from trustbound.report.figures.canvas import SMALL, label, picture, sheet
from trustbound.report.figures.palette import colour
from trustbound.report.formatting import number


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The verdicts after one step; `settled` of them are new and `verdict` is what they became."""

    name: str
    certified: int
    unknown: int
    broken: int
    misclassified: int
    settled: int = 0
    verdict: str = ""
    units: float | None = None


def stages(bracket: Bracket, steps: Sequence[StageFacts], backward: float) -> tuple[Stage, ...]:
    """Follow the steps from the clean pass on; `backward` is the price of a backward in forwards.

    The end is the bracket's own count. Where the steps leave a rest, a last stage "otherwise settled" holds
    it: verdicts that came from the security curve or from the final re-check.

    >>> bracket = Bracket(threat="linf:0.1", lower=0.2, upper=0.6, lower_interval=(0.0, 1.0),
    ...     upper_interval=(0.0, 1.0), n=10, certified=2, broken=3, misclassified=1, unknown=4)
    >>> step = StageFacts(threat="linf:0.1", name="pgd", kind="attack", method="pgd", examined=9, settled=3)
    >>> [(stage.name, stage.unknown, stage.verdict) for stage in stages(bracket, [step], 3.0)]
    [('clean pass', 9, 'misclassified'), ('pgd', 6, 'broken'), ('otherwise settled', 4, 'certified')]
    """
    wrong, n = bracket.misclassified, bracket.n
    found = [
        Stage(
            name="clean pass",
            certified=0,
            unknown=n - wrong,
            broken=0,
            misclassified=wrong,
            settled=wrong,
            verdict="misclassified",
        )
    ]
    certified = broken = 0
    for step in steps:
        verdict = {"attack": "broken", "proof": "certified"}.get(step.kind, "")
        settled = step.settled if verdict else 0
        certified += settled if verdict == "certified" else 0
        broken += settled if verdict == "broken" else 0
        found.append(
            Stage(
                name=step.name + (" (control)" if step.kind == "control" else ""),
                certified=certified,
                unknown=max(n - wrong - certified - broken, 0),
                broken=broken,
                misclassified=wrong,
                settled=settled,
                verdict=verdict,
                units=step.cost.units(backward),
            )
        )
    for verdict, rest in (
        ("broken", bracket.broken - broken),
        ("certified", bracket.certified - certified),
    ):
        if rest != 0:
            certified += rest if verdict == "certified" else 0
            broken += rest if verdict == "broken" else 0
            found.append(
                Stage(
                    name="otherwise settled" if rest > 0 else "withdrawn",
                    certified=certified,
                    unknown=max(n - wrong - certified - broken, 0),
                    broken=broken,
                    misclassified=wrong,
                    settled=rest,
                    verdict=verdict,
                )
            )
    return tuple(found)


def waterfall_picture(threat: str, found: Sequence[Stage], *, width: float, name: str) -> str:
    """Draw the stages of one threat from top to bottom; what a step settled is drawn in full colour."""
    wide = width >= 500
    top, pitch = (38.0, 32.0) if wide else (58.0, 50.0)
    height = top + pitch * len(found) + 4.0

    def draw(figure: Figure) -> None:
        axes = sheet(figure, width, height)
        marks.legend(axes, left=8, top=6, columns=4 if wide else 2, pitch=150.0 if wide else 160.0)
        left, extent = (176.0, width - 176.0 - 186.0) if wide else (8.0, width - 16.0)
        for row, stage in enumerate(found):
            y = top + pitch * row
            said = _said(stage)
            if wide:
                axes.text(left - 12, y + 16, label(stage.name, 24), ha="right", va="baseline")
                axes.text(left + extent + 12, y + 16, said, va="baseline", fontsize=SMALL)
            else:
                axes.text(left, y + 16, label(stage.name, 22), va="baseline", fontweight="bold")
                axes.text(left + extent, y + 16, said, ha="right", va="baseline", fontsize=SMALL)
            _bar(axes, stage, left, y + (2 if wide else 23), extent, 20.0)

    return picture(
        draw,
        name=name,
        title=f"How the search settled the examples under {label(threat)}",
        description=" ".join(
            f"After {label(stage.name)}: {stage.certified} certified, {stage.unknown} unknown, {stage.broken} "
            f"broken, {stage.misclassified} misclassified."
            for stage in found
        ),
        width=width,
        height=height,
    )


def _said(stage: Stage) -> str:
    """What a step did, and at what price, in a few words."""
    did = f"{stage.settled:+,} {stage.verdict}" if stage.verdict else "check only"
    if stage.units is None:
        return did
    units = number(stage.units, 3) if stage.units < 10_000 else f"{number(stage.units / 1000, 3)} k"
    return f"{did} · {units} units"


def _bar(axes: Axes, stage: Stage, left: float, top: float, extent: float, height: float) -> None:
    """The four verdicts, faint where they were settled before and full where this step settled them."""
    total = max(stage.certified + stage.unknown + stage.broken + stage.misclassified, 1)
    fresh = {stage.verdict: max(stage.settled, 0)}
    position = left
    for verdict in ("certified", "unknown", "broken", "misclassified"):
        amount = getattr(stage, verdict)
        new = min(fresh.get(verdict, 0), amount)
        pieces = [(amount - new, True), (new, False)]  # new proofs grow rightwards, new breaks leftwards
        if verdict in ("broken", "misclassified"):
            pieces.reverse()
        for piece, faint in pieces:
            span = extent * piece / total
            marks.bar(axes, verdict, position, top, span, height, faint=faint and verdict != "unknown")
            position += span
    axes.plot(
        [left, left, left + extent, left + extent, left],
        [top, top + height, top + height, top, top],
        color=colour("rule"),
        linewidth=0.8,
        zorder=0,
    )
