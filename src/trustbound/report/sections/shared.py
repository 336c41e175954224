"""Perturbations that all inputs share: how many each fools, fitted to and held out, and what it looks like."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trustbound.record.audit import AuditRecord, SharedFacts
from trustbound.report.formatting import amount, count, counted, number
from trustbound.report.sections.blocks import Block, Exhibits, ExhibitView, Pane, Paragraph, Section, Table
from trustbound.report.sections.gallery import Array, magnification, png
from trustbound.report.wording import is_picture


def shared_section(record: AuditRecord, gallery: Mapping[str, Array] | None) -> Section:
    """What one change does to every input."""
    blocks: list[Block] = [
        Paragraph(
            text="One perturbation added to every input alike, fitted to some of the examples, half at most, and "
            "scored on the others too, which it never saw; inputs are clipped to their valid range. What it breaks "
            "counts in the upper bound like what any attack breaks."
        ),
        Table(
            caption="How many each fools, of the examples that are answered rightly without it; exact 95 % intervals.",
            head=("threat", "attack", "size", "fitted to", "fooled", "held out", "fooled", "forwards"),
            rows=tuple(_row(facts) for facts in record.shared),
            words=(0, 1),
        ),
    ]
    views = [view for facts in record.shared if (view := _view(record, facts, gallery or {})) is not None]
    if views:
        blocks.append(Exhibits(exhibits=tuple(views)))
    return Section(id="shared", title="One change for all inputs", blocks=tuple(blocks), folded=True)


def _row(facts: SharedFacts) -> tuple[str, ...]:
    return (
        facts.threat,
        facts.method,
        number(facts.size),
        amount(facts.fitted, "example"),
        counted(facts.fooled_fitted, facts.fitted),
        amount(facts.held_out, "example"),
        counted(facts.fooled_held_out, facts.held_out),
        count(facts.cost.forwards),
    )


def _view(record: AuditRecord, facts: SharedFacts, arrays: Mapping[str, Array]) -> ExhibitView | None:
    """The perturbation as a picture; None where it is none, or not at hand."""
    array = arrays.get(f"shared/{facts.key}")
    if array is None or not is_picture(np.shape(array)):
        return None
    low, high = record.model.box
    values = np.nan_to_num(np.asarray(array, dtype=np.float32))
    factor = magnification(values, high - low)
    height, width = values.shape[-2:]
    return ExhibitView(
        title=f"{facts.threat}, {facts.method}",
        note="Grey is no change, lighter is more, darker is less.",
        panes=(
            Pane(
                png=png(0.5 + factor * values / (high - low)),
                width=width,
                height=height,
                alternative=f"The perturbation of {facts.method} under {facts.threat}, magnified {factor:g} times",
                caption="perturbation",
                detail=f"magnified {factor:g} ×",
            ),
        ),
    )
