"""One perturbation fitted to the examples of one unit."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from trustbound.attacks.registry import ATTACKS
from trustbound.attacks.shared import fitting
from trustbound.audits.work_units.attack import REFUSED
from trustbound.audits.work_units.subject import Subject
from trustbound.audits.work_units.unit import UnitResult, WorkUnit
from trustbound.errors import ModelError, UnsupportedError
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow
from trustbound.threat import Random
from trustbound.threat.binding import bind


def fit(unit: WorkUnit, subject: Subject) -> UnitResult:
    """Fit to examples that are all correctly classified; none of them counts as broken yet.

    An attack that this model cannot serve is a finding, not a failure, and leaves no perturbation.
    """
    started = time.perf_counter()
    rows, threat = unit.rows, subject.threats[unit.threat]
    inputs, labels = subject.inputs(rows), subject.labels(rows)
    try:
        objective, view = bind(threat.goal, subject.model.task, labels, unit.classes)
        with subject.oracle(unit, access=threat.access, silenced=inputs, view=view) as oracle:
            found = fitting.fit(
                unit.method,
                ATTACKS.build(unit.method, **unit.params),
                oracle,
                threat.perturbations.around(inputs, subject.model.box),
                objective,
                Random(unit.key, subject.ids(rows).to(inputs.device)).stream(unit.step),
                torch.zeros(len(rows), dtype=torch.bool, device=inputs.device),
                threat,
            )
    except (UnsupportedError, ModelError) as error:
        kept = [EvidenceRow(position=position, found=False) for position in unit.positions]
        return UnitResult(rows=kept, cost=Cost(), events=(f"{REFUSED}{error}",))
    counts = zip(unit.positions, found.forwards.tolist(), found.backwards.tolist(), found.queries.tolist(), strict=True)
    return UnitResult(
        rows=[
            EvidenceRow(position=position, found=False, forwards=forwards, backwards=backwards, queries=queries)
            for position, forwards, backwards, queries in counts
        ],
        cost=replace(found.cost, seconds=time.perf_counter() - started),
        tensors={"position": rows, "perturbation": found.perturbation.unsqueeze(0)},
        events=found.events,
    )
