"""One attack on the examples of one unit, every success measured again, the witnesses kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trustbound.attacks import Attack, AttackResult, search
from trustbound.attacks.registry import ATTACKS
from trustbound.audits.work_units.draws import drawn
from trustbound.audits.work_units.subject import Subject
from trustbound.audits.work_units.unit import UnitResult, WorkUnit
from trustbound.audits.work_units.verify import Verified, verify
from trustbound.errors import ModelError, UnsupportedError
from trustbound.metrics.decision import NO_ANSWER
from trustbound.record.codec import from_document
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow
from trustbound.threat import Access, Objective, Random
from trustbound.threat.binding import bind

#: Examples of the data, drawn at random, from which a search without scores may start.
DONORS = 256

#: How the event begins that says why an attack could not be run.
REFUSED = "refused: "


def attack(unit: WorkUnit, subject: Subject) -> UnitResult:
    """Attack examples that are all correctly classified; with sizes, each within its own in place of epsilon.

    An attack that this model cannot serve is a finding, not a failure: an event that begins with `REFUSED`.
    """
    try:
        return attacked(from_document(ATTACKS.load(unit.method), unit.params), unit, subject)
    except (UnsupportedError, ModelError) as error:
        rows = [EvidenceRow(position=position, found=False) for position in unit.positions]
        return UnitResult(rows=rows, cost=Cost(), events=(f"{REFUSED}{error}",))


def attacked(attack: Attack, unit: WorkUnit, subject: Subject) -> UnitResult:
    """What an attack breaks of a unit's examples, each success measured again."""
    model, rows = subject.model, unit.rows
    inputs, labels = subject.inputs(rows), subject.labels(rows)
    threat, sizes = subject.threats[unit.threat], None
    if unit.sizes:
        threat = replace(threat, perturbations=threat.perturbations.resized(math.inf))
        sizes = torch.tensor(unit.sizes, dtype=torch.float64, device=model.device)
    neighbourhood = threat.perturbations.around(inputs, model.box, sizes)
    objective, view = bind(threat.goal, model.task, labels, unit.classes)
    scale = torch.full((len(rows),), unit.logit_scale, dtype=torch.float64, device=inputs.device)
    with subject.oracle(unit, access=threat.access, silenced=inputs, view=view) as oracle:
        found = search(
            attack,
            oracle,
            neighbourhood,
            objective,
            Random(unit.key, subject.ids(rows).to(model.device)).stream(unit.step),
            reached=torch.zeros(len(rows), dtype=torch.bool, device=inputs.device),
            donors=_donors(unit, subject) if attack.needs is Access.DECISIONS else None,
            logit_scale=None if unit.logit_scale == 1.0 else scale,
        )
        found = _concerned(found, objective)
    verified = verify(
        model, subject.double.model, neighbourhood, objective, found, oracle.batch_size, unit.seed("/check"), view
    )
    broken = verified.confirmed.nonzero()[:, 0].cpu()
    tensors = {}
    if len(broken):
        at = broken.to(inputs.device)
        tensors = {"position": rows[broken], "adversarial": found.adversarial[at]}
        if not neighbourhood.additive:
            tensors["theta"] = found.theta[at]
    silent = int(verified.silent.sum())
    said = f"{silent} examples are broken by inputs to which the model gives no answer: NaN, infinity or an exception"
    return UnitResult(
        rows=_rows(unit.positions, found, verified),
        cost=found.cost + verified.cost,
        tensors=tensors,
        events=(*found.events, said) if silent else found.events,
    )


def _donors(unit: WorkUnit, subject: Subject) -> Tensor:
    """Examples of the audit from which a search without scores may start: the same for every unit of work."""
    everything = torch.arange(len(subject.data))
    return subject.inputs(drawn(unit.key, "donors", subject.data, everything, DONORS))


def _concerned(found: AttackResult, objective: Objective) -> AttackResult:
    """Without examples that are of the wanted class already: there is nothing to reach for them."""
    concerned = objective.concerned()
    return replace(found, success=found.success & concerned, margin=found.margin.masked_fill(~concerned, torch.inf))


def _rows(positions: Sequence[int], found: AttackResult, verified: Verified) -> list[EvidenceRow]:
    columns = zip(
        positions,
        verified.confirmed.tolist(),
        verified.tie.tolist(),
        found.margin.tolist(),
        found.size.tolist(),
        found.prediction.masked_fill(verified.silent, NO_ANSWER).tolist(),
        found.confidence.tolist(),
        (found.forwards + verified.forwards).tolist(),
        found.backwards.tolist(),
        found.queries.tolist(),
        strict=True,
    )
    return [
        EvidenceRow(
            position=position,
            found=broken,
            tie=tie and not broken,
            margin=margin if math.isfinite(margin) else None,
            size=size if broken else None,
            prediction=prediction,
            confidence=None if math.isnan(confidence) else confidence,
            forwards=forwards,
            backwards=backwards,
            queries=queries,
        )
        for position, broken, tie, margin, size, prediction, confidence, forwards, backwards, queries in columns
    ]
