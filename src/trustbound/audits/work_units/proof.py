"""Proofs about the examples of one unit: at the threat's epsilon, and the largest radius that holds."""

from __future__ import annotations

import math
import time

from trustbound.audits.work_units.subject import Subject
from trustbound.audits.work_units.unit import UnitResult, WorkUnit
from trustbound.certificates import certify
from trustbound.certificates.radius import certified_radius
from trustbound.certificates.registry import CERTIFIERS
from trustbound.certificates.specification import Certifier
from trustbound.errors import UnsupportedError
from trustbound.record.codec import from_document
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow

#: Halvings of the gap between what is proven and what is not.
HALVINGS = 8


def proof(unit: WorkUnit, subject: Subject) -> UnitResult:
    """Bound the margins of examples from below over set ∩ box, for ε + τ; what cannot be bounded is an event."""
    started = time.perf_counter()
    inputs, labels = subject.inputs(unit.rows), subject.labels(unit.rows)
    threat, box = subject.threats[unit.threat], subject.model.box
    try:
        found = certify(_certifier(unit), subject.graph, inputs, labels, threat, box=box, task=subject.model.task)
    except UnsupportedError as error:
        rows = [EvidenceRow(position=position, found=False) for position in unit.positions]
        return UnitResult(rows=rows, cost=Cost(seconds=time.perf_counter() - started), events=(str(error),))
    rows = [
        EvidenceRow(
            position=position,
            found=certified,
            margin=margin if math.isfinite(margin) else None,
            tie=margin > 0 and not certified,  # proven in exact arithmetic, lost to rounding
        )
        for position, certified, margin in zip(
            unit.positions, found.certified.tolist(), found.margin.tolist(), strict=True
        )
    ]
    return UnitResult(rows=rows, cost=Cost(seconds=time.perf_counter() - started))


def radius(unit: WorkUnit, subject: Subject) -> UnitResult:
    """The radius inside which each example is proven, at most the unit's size, with τ added to what is proven."""
    started = time.perf_counter()
    threat, box = subject.threats[unit.threat], subject.model.box
    tolerance = threat.perturbations.tolerance(box, math.prod(subject.data.shape))
    events: tuple[str, ...] = ()
    try:
        sizes = certified_radius(
            _certifier(unit),
            subject.graph,
            subject.inputs(unit.rows),
            subject.labels(unit.rows),
            box,
            threat.perturbations.norm,
            cap=max(unit.sizes),
            steps=HALVINGS,
            tolerance=tolerance,
            task=subject.model.task,
        ).tolist()
    except UnsupportedError as error:
        sizes, events = [0.0] * len(unit.positions), (str(error),)
    rows = [
        EvidenceRow(position=position, found=size > 0.0, size=size)
        for position, size in zip(unit.positions, sizes, strict=True)
    ]
    return UnitResult(rows=rows, cost=Cost(seconds=time.perf_counter() - started), events=events)


def _certifier(unit: WorkUnit) -> Certifier:
    made: Certifier = from_document(CERTIFIERS.load(unit.method), unit.params)
    return made
