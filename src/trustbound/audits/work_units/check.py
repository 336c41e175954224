"""One check of the evaluation: of the model before the search, of the search's evidence after it."""

from __future__ import annotations

import torch

from trustbound.attacks import Attack
from trustbound.audits.checks.context import After, Before, Evidence
from trustbound.audits.checks.examine import examine
from trustbound.audits.work_units.draws import derived_key
from trustbound.audits.work_units.subject import Subject
from trustbound.audits.work_units.unit import UnitResult, WorkUnit
from trustbound.data.labelled import LabelledSet
from trustbound.record.codec import to_document


def check(
    unit: WorkUnit, subject: Subject, attacks: tuple[Attack, ...] = (), evidence: Evidence | None = None
) -> UnitResult:
    """The judged record of the check that a unit names, as a document.

    Parameters
        attacks     the gradient attacks of the search.
        evidence    what the search found; None before it.
    """
    examined = examine(looked_at(unit, subject, attacks, evidence), [unit.method])
    return UnitResult(rows=[], cost=examined.cost, document=to_document(examined.checks[0]))


def looked_at(
    unit: WorkUnit,
    subject: Subject,
    attacks: tuple[Attack, ...],
    evidence: Evidence | None,
    training: LabelledSet | None = None,
) -> Before:
    """What a check may look at: inputs as they came before the search, as they were searched from after it."""
    model, data = subject.model, subject.data
    asked = Before(
        model=model,
        inputs=data.inputs.to(model.device) if evidence is None else subject.inputs(torch.arange(len(data))),
        labels=data.labels.to(model.device),
        threat=subject.threats[unit.threat],
        key=derived_key(unit.key, "checks"),
        training=training,
        attacks=attacks,
        share=float(unit.params.get("share", 1.0)),
    )
    return asked if evidence is None else After(**vars(asked), evidence=evidence)
