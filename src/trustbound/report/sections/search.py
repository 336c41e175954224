"""How the brackets were found: the security curve, the waterfall of the search, and what all of it cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from trustbound.record.audit import AuditRecord, Curve, StageFacts
from trustbound.record.cost import Cost, Spent
from trustbound.report.figures.bracket import NARROW, WIDE
from trustbound.report.figures.curve import curve_picture
from trustbound.report.figures.waterfall import Stage, stages, waterfall_picture
from trustbound.report.formatting import amount, count, duration, number, share_with_interval, size_of
from trustbound.report.sections.blocks import (
    Block,
    Items,
    Paragraph,
    Picture,
    Pictures,
    Section,
    Table,
    missing,
    without_zeros,
)
from trustbound.report.wording import stopped

#: Width of a picture of which two stand beside each other.
HALF = 380.0
_COUNTED = ("forwards", "backwards", "queries", "seconds")


def curve_section(record: AuditRecord) -> Section:
    """Both bounds over the size of the change, with the audit's own sizes marked."""
    title = "Security curve"
    curves = [curve for curve in record.curves if curve.epsilons]
    if not curves:
        notes = tuple(missing(curve.note) for curve in record.curves if curve.note)
        return Section(
            id="curve",
            title=title,
            blocks=(missing("No security curve was measured in this audit."), *notes),
        )
    wide = WIDE if len(curves) == 1 else HALF
    pictures = []
    for index, curve in enumerate(curves):
        known = [(bracket.threat, size_of(bracket.threat)) for bracket in record.brackets]
        marked = [
            (threat, _scale(curve) * size[1])
            for threat, size in known
            if size and (size[0], size[2]) == (curve.norm, curve.unit)
        ]
        shown = replace(curve, epsilons=tuple(_scale(curve) * size for size in curve.epsilons))
        axis = _axis(curve)
        pictures.append(
            Picture(
                caption=f"Under {curve.norm}{_in_units(curve)}, on {amount(curve.n, 'example')}.",
                wide=curve_picture(shown, marked, axis=axis, width=wide, name=f"curve-{index}-wide"),
                narrow=curve_picture(shown, marked, axis=axis, width=NARROW, name=f"curve-{index}-narrow"),
            )
        )
    blocks: list[Block] = [
        Paragraph(
            text="How the bracket moves with the size of the change. Below the lower line is certified, above the "
            "upper one broken or wrong from the start; the striped band is unknown. Dashed: what was audited."
        ),
        Pictures(pictures=tuple(pictures)),
    ]
    return Section(id="curve", title=title, blocks=tuple(blocks))


def curve_numbers_section(record: AuditRecord) -> Section:
    """The curves as tables."""
    curves = [curve for curve in record.curves if curve.epsilons]
    blocks: list[Block] = [] if curves else [missing("No security curve was measured in this audit.")]
    if curves:
        blocks.append(Paragraph(text="Dotted in the picture: limits of the exact 95 % intervals.", tone="note"))
    for curve in curves:
        blocks.append(_curve_table(curve))
        if curve.note:
            blocks.append(Paragraph(text=stopped(curve.note), tone="note"))
    return Section(id="curve-numbers", title="The security curve in numbers", blocks=tuple(blocks), folded=True)


def waterfall_section(record: AuditRecord) -> Section:
    """Who broke and who proved how many, at what cost."""
    title = "What each step found"
    if not record.steps:
        nothing = missing("The record lists no steps of the search.")
        return Section(id="waterfall", title=title, blocks=(nothing,), folded=True)
    blocks: list[Block] = [
        Paragraph(
            text="Each step runs on what is still unknown; what it settles is drawn in full colour, what was "
            "settled before is faint. A control group drawn at random is attacked also where it is proven and proven "
            "also where it is broken, so that the audit can catch its own mistakes. One unit is one forward pass of "
            "one example; "
            f"a backward pass counts {number(record.backward_cost, 3)} units, as measured in this run."
        )
    ]
    for index, bracket in enumerate(record.brackets):
        steps = [step for step in record.steps if step.threat == bracket.threat]
        if not steps:
            blocks.append(missing(f"The record lists no steps under {bracket.threat}."))
            continue
        found = stages(bracket, steps, record.backward_cost)
        blocks.append(
            Picture(
                caption=f"The search under {bracket.threat}: {amount(bracket.n, 'example')}.",
                wide=waterfall_picture(bracket.threat, found, width=WIDE, name=f"waterfall-{index}-wide"),
                narrow=waterfall_picture(bracket.threat, found, width=NARROW, name=f"waterfall-{index}-narrow"),
            )
        )
        blocks.append(_step_table(bracket.threat, found, steps, record.backward_cost))
        rest = [stage for stage in found if stage.name in ("otherwise settled", "withdrawn")]
        if rest:
            blocks.append(
                Paragraph(
                    text="Not settled by a step of this list: "
                    + ", ".join(f"{stage.settled:+,} {stage.verdict}" for stage in rest)
                    + ". Such verdicts come from the security curve or from the final re-check.",
                    tone="note",
                )
            )
    known = {bracket.threat for bracket in record.brackets}
    others = dict.fromkeys(step.threat for step in record.steps if step.threat not in known)
    if others:
        blocks.append(Paragraph(text=f"Steps without a bracket of their own: {', '.join(others)}.", tone="note"))
    return Section(id="waterfall", title=title, blocks=tuple(blocks), folded=True)


def cost_section(record: AuditRecord) -> Section:
    """What the audit cost in all, and where it went."""
    parts: dict[str, Cost] = {}
    for step in record.steps:
        parts[step.kind] = parts.get(step.kind, Cost()) + step.cost
    for curve in record.curves:
        parts["curve"] = parts.get("curve", Cost()) + curve.cost
    words = {"attack": "attacks", "proof": "proofs", "control": "control group", "curve": "security curve"}
    rows = [_cost_row(words.get(kind, kind), cost, record) for kind, cost in parts.items()]
    told = sum(parts.values(), Cost())
    rest = Cost(*(getattr(record.cost, name) - getattr(told, name) for name in _COUNTED))
    adds_up = min(rest.forwards, rest.backwards, rest.queries, round(rest.seconds, 3)) >= 0
    if adds_up:
        rows.append(_cost_row("clean pass, checks, confidence and the rest", rest, record))
    rows.append(_cost_row("whole audit", record.cost, record))
    blocks: list[Block] = [
        Paragraph(
            text=f"In all {count(record.cost.forwards)} forward and {count(record.cost.backwards)} backward passes "
            f"of single examples in {duration(record.cost.seconds)}; one unit is one forward pass, a backward "
            f"pass counts {number(record.backward_cost, 3)}."
            + ("" if adds_up else " The parts were counted in more than one run: they are more than the whole.")
        ),
        without_zeros(
            Table(
                caption="Counted model evaluations, and the time that they took.",
                head=("part", "forwards", "backwards", "queries", "units", "units per example", "time"),
                rows=tuple(rows),
            )
        ),
    ]
    if record.cost.purposes:
        blocks.append(_purposes(record.cost))
    if record.events:
        blocks.append(Items(title="What happened on the way", items=tuple(map(_event, record.events))))
    return Section(id="cost", title="What it cost", blocks=tuple(blocks), folded=True)


def _event(said: str) -> str:
    """An event of a run as a sentence.

    >>> _event("wall clock 66.1 s"), _event("l2:0.5: left out for time: walk")
    ('The run took 1 min 6 s from start to end.', 'l2:0.5: left out for time: walk.')
    """
    clock = re.fullmatch(r"wall clock ([\d.]+) s", said)
    return f"The run took {duration(float(clock[1]))} from start to end." if clock else stopped(said)


def _purposes(cost: Cost) -> Table:
    """What the model was asked for, and what was looked at."""
    words = {
        "clean": "clean answers",
        "search": "searches",
        "recheck": "measuring again what was found",
        "donors": "inputs of the data to start from",
        "proof": "votes under noise",
        "checks": "checks of the evaluation",
        "uncertainty": "uncertainty under attack",
    }
    rows = [
        (
            words[purpose],
            *map(count, (spent.decisions, spent.scores, spent.gradients, spent.detector, spent.backwards)),
        )
        for purpose, spent in cost.purposes.items()
    ]
    told = sum(cost.purposes.values(), Spent())
    if cost.forwards > told.forwards:
        rest = count(cost.forwards - told.forwards), "–", "–", count(cost.backwards - told.backwards)
        rows.append(("of an earlier version, not told apart", "–", *rest))
    return without_zeros(
        Table(
            caption="What the passes were for, and what was looked at: forwards of which the class, the outputs or the "
            "gradient were seen, answers of a detector, and backwards.",
            head=("for", "class", "outputs", "gradients", "detector", "backwards"),
            rows=tuple(rows),
        )
    )


#: What sizes are counted in where columns of a table give them a unit.
_UNITS = {
    "%": "per cent of each column's range",
    "range": "ranges of each column",
    "std": "standard deviations of each column",
    "columns": "radii of each column's own",
}


def _in_units(curve: Curve) -> str:
    return f", in {_UNITS[curve.unit]}" if curve.unit in _UNITS else ""


def _axis(curve: Curve) -> str:
    return _UNITS.get(curve.unit, curve.norm)


def _scale(curve: Curve) -> float:
    """What a size of the record is multiplied with before it is shown."""
    return 100.0 if curve.unit == "%" else 1.0


def _curve_table(curve: Curve) -> Table:
    """The numbers of one curve."""
    return Table(
        caption=f"Security curve under {curve.norm} in numbers{_in_units(curve)}: shares of "
        f"{amount(curve.n, 'example')} with exact 95 % intervals.",
        head=("epsilon", "at least (certified)", "at most (unbroken)"),
        rows=tuple(
            (
                number(_scale(curve) * epsilon),
                share_with_interval(curve.lower[i], curve.lower_interval[i]),
                share_with_interval(curve.upper[i], curve.upper_interval[i]),
            )
            for i, epsilon in enumerate(curve.epsilons)
        ),
    )


def _step_table(threat: str, found: Sequence[Stage], steps: Sequence[StageFacts], backward: float) -> Table:
    """The numbers of one waterfall. The first stage is the clean pass, then comes one stage for each step."""
    table = Table(
        caption=f"The steps under {threat}, in order. Control: examples taken along because they belong to "
        "the control group. Evaluations are counted per example.",
        head=(
            "step",
            "method",
            "examined",
            "control",
            "settled",
            "still unknown",
            "forwards",
            "backwards",
            "queries",
            "units",
            "time",
        ),
        rows=tuple(
            (
                step.name + (f" ({step.note})" if step.note else ""),
                f"{step.method}, {step.kind}",
                count(step.examined),
                count(step.control),
                count(step.settled) + {"attack": " broken", "proof": " proven"}.get(step.kind, ""),
                count(stage.unknown),
                count(step.cost.forwards),
                count(step.cost.backwards),
                count(step.cost.queries),
                number(step.cost.units(backward)),
                duration(step.cost.seconds),
            )
            for step, stage in zip(steps, found[1:], strict=False)
        ),
        words=(0, 1),
    )
    return without_zeros(table)


def _cost_row(part: str, cost: Cost, record: AuditRecord) -> tuple[str, ...]:
    """One cost as a row."""
    units = cost.units(record.backward_cost)
    return (
        part,
        count(cost.forwards),
        count(cost.backwards),
        count(cost.queries),
        number(units),
        number(units / max(record.data.n, 1)),
        duration(cost.seconds),
    )
