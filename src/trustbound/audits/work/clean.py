"""The clean pass on the examples of one unit."""

from __future__ import annotations

import time

import torch

from trustbound.attacks.request import check_clean
from trustbound.audits.work.subject import Subject
from trustbound.audits.work.unit import UnitResult, WorkUnit
from trustbound.measure.decision import decide
from trustbound.measure.margin import margin
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow


def clean(unit: WorkUnit, subject: Subject) -> UnitResult:
    """Predictions, confidences and logits before anybody attacks, and what a declared detector rejects.

    Raises      InputError for logits that are no finite numbers or labels that the model cannot answer.
    """
    started = time.perf_counter()
    rows = unit.rows
    inputs, labels = subject.inputs(rows), subject.labels(rows)
    with subject.oracle(unit) as oracle, oracle.booking("clean"):
        logits = oracle.outputs(inputs, torch.arange(len(rows)))
        rejected = oracle.rejected(inputs, torch.arange(len(rows)), torch.ones_like(labels, dtype=torch.bool))
        cost, forwards = oracle.cost, oracle.forwards.tolist()
    check_clean(logits, labels)
    prediction, confidence = decide(logits)
    gaps = margin(logits.double(), labels)
    found = [
        EvidenceRow(position=position, found=False, margin=gap, prediction=said, confidence=sure, forwards=made)
        for position, gap, said, sure, made in zip(
            unit.positions, gaps.tolist(), prediction.tolist(), confidence.tolist(), forwards, strict=True
        )
    ]
    said = f"the detector rejects {int(rejected.sum())} of {len(rows)} clean inputs: they count as not answered rightly"
    return UnitResult(
        rows=found,
        cost=cost + Cost(seconds=time.perf_counter() - started),
        tensors={"position": rows, "logits": logits, "rejected": rejected},
        events=(said,) if subject.model.adaptation.detector is not None else (),
    )
