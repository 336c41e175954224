"""Proofs about the examples of one unit, at the threat's epsilon or each at a size of its own."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from trustbound.audits.work_units.subject import Subject
from trustbound.audits.work_units.unit import UnitResult, WorkUnit
from trustbound.certificates import certify
from trustbound.certificates.registry import CERTIFIERS
from trustbound.certificates.specification import Certifier
from trustbound.errors import UnsupportedError
from trustbound.record.codec import from_document
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow


def proof(unit: WorkUnit, subject: Subject) -> UnitResult:
    """Bound the margins of examples from below over set ∩ box, for ε + τ; what cannot be bounded is an event.

    With sizes, each within its own in place of epsilon.
    """
    started = time.perf_counter()
    inputs, labels = subject.inputs(unit.rows), subject.labels(unit.rows)
    threat, model = subject.threats[unit.threat], subject.model
    sizes = torch.tensor(unit.sizes, dtype=torch.float64) if unit.sizes else None
    try:
        bounded = subject.bounded(unit.method)
        found = certify(_certifier(unit), bounded, inputs, labels, threat, sizes=sizes, box=model.box, task=model.task)
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
    tensors = {}
    if found.falsified is not None and found.witness is not None and bool(found.falsified.any()):
        refuted = found.falsified.cpu()
        tensors = {"position": unit.rows[refuted], "adversarial": found.witness.cpu()[refuted]}
        rows = [
            replace(row, payload={"refuted": True}) if one else row
            for row, one in zip(rows, refuted.tolist(), strict=True)
        ]
    return UnitResult(rows=rows, cost=Cost(seconds=time.perf_counter() - started), tensors=tensors)


def _certifier(unit: WorkUnit) -> Certifier:
    made: Certifier = from_document(CERTIFIERS.load(unit.method), unit.params)
    return made
