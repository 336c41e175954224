"""The clean pass on the examples of one unit."""

from __future__ import annotations

import time

import torch

from trustbound.attacks.searching.request import check_clean
from trustbound.audits.work_units.subject import Subject
from trustbound.audits.work_units.unit import UnitResult, WorkUnit
from trustbound.metrics.decision import decide
from trustbound.metrics.margin import margin
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow
from trustbound.tasks.view import seen


def clean(unit: WorkUnit, subject: Subject) -> UnitResult:
    """Predictions, confidences and logits before anybody attacks, and what a declared detector rejects.

    Raises      InputError for logits that are no finite numbers or labels that the model cannot answer.
    """
    started = time.perf_counter()
    rows, task = unit.rows, subject.model.task
    inputs, labels = subject.inputs(rows), subject.labels(rows)
    with subject.oracle(unit) as oracle, oracle.booking("clean"):
        outputs = oracle.outputs(inputs, torch.arange(len(rows)))
        rejected = oracle.rejected(inputs, torch.arange(len(rows)), torch.ones(len(rows), dtype=torch.bool))
        cost, forwards = oracle.cost, oracle.forwards.tolist()
    check_clean(task, outputs, labels)
    logits, right = seen(task, outputs, labels)
    prediction, confidence = decide(logits)
    gaps, sure = margin(logits.double(), right), confidence.tolist() if task.calibrated else [None] * len(rows)
    columns = (unit.positions, gaps.tolist(), prediction.tolist(), sure, forwards, task.payload(outputs, labels))
    found = [
        EvidenceRow(
            position=position,
            found=False,
            margin=gap,
            prediction=said,
            confidence=share,
            forwards=made,
            payload=kept,
        )
        for position, gap, said, share, made, kept in zip(*columns, strict=True)
    ]
    said = f"the detector rejects {int(rejected.sum())} of {len(rows)} clean inputs: they count as not answered rightly"
    return UnitResult(
        rows=found,
        cost=cost + Cost(seconds=time.perf_counter() - started),
        tensors={"position": rows, "logits": outputs, "rejected": rejected},
        events=(said,) if subject.model.adaptation.detector is not None else (),
    )
