"""One attack stage of the audit: run it on examples, re-measure every success, keep the witnesses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trustbound.attacks import Attack, Found, search
from trustbound.attacks.oracle import Oracle
from trustbound.audits.context import Context, Unit
from trustbound.measure.decision import NO_ANSWER, answered
from trustbound.measure.margin import rounding_error
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow
from trustbound.threat import Neighbourhood, Objective, Random, Threat


@dataclass(frozen=True, eq=False)
class Verified:
    """Successes measured again.

    Shapes      confirmed, tie (B,) bool: broken beyond rounding error at the model's dtype and in float64, or
                within it; silent (B,) bool: confirmed by outputs that are no answer (NaN, infinity), which no other
                precision can take back; margin64 (B,), NaN where no float64 copy can be made.
    """

    confirmed: Tensor
    tie: Tensor
    silent: Tensor
    margin64: Tensor


def attack_unit(
    context: Context,
    threat: Threat,
    attack: Attack,
    step: str,
    positions: Tensor,
    shard: int,
    double: Model | None,
) -> Unit:
    """Attack the examples at positions, all of them correctly classified."""
    inputs, labels = context.inputs(positions), context.labels(positions)
    neighbourhood = threat.allowed.around(inputs, context.model.box)
    random = Random(context.key, context.ids(positions)).stream(step)
    objective = threat.goal.bind(labels, context.classes)
    with Oracle(
        context.model,
        examples=len(positions),
        access=threat.access,
        batch_size=context.batch_size,
        key=context.unit_key(step, shard),
        task=step,
        names=torch.as_tensor(context.data.indices)[positions],
    ) as oracle:
        found = search(
            attack,
            oracle,
            neighbourhood,
            objective,
            random,
            reached=torch.zeros(len(positions), dtype=torch.bool, device=inputs.device),
        )
        found = _concerned(found, objective)
        verified = verify(context.model, double, neighbourhood, objective, found, oracle.batch_size)
    broken = verified.confirmed.nonzero()[:, 0].cpu()
    tensors = {}
    if len(broken):
        tensors = {"position": positions[broken], "adversarial": found.adversarial[broken.to(inputs.device)]}
    measured = int(found.success.sum()) * (1 if double is None else 2)
    silent = int(verified.silent.sum())
    said = f"{silent} examples are broken by inputs to which the model gives no answer: NaN or infinity"
    return Unit(
        rows=_rows(positions, found, verified),
        cost=found.cost + Cost(forwards=measured),
        tensors=tensors,
        events=(*found.events, said) if silent else found.events,
    )


def _concerned(found: Found, objective: Objective) -> Found:
    """Without examples that are of the wanted class already: there is nothing to reach for them."""
    concerned = objective.concerned()
    return replace(found, success=found.success & concerned, margin=found.margin.masked_fill(~concerned, torch.inf))


def verify(
    model: Model,
    double: Model | None,
    neighbourhood: Neighbourhood,
    objective: Objective,
    found: Found,
    batch_size: int,
) -> Verified:
    """Measure successes again: a fresh forward at the model's dtype, another in float64, the size in float64."""
    tie, confirmed, silent = (torch.zeros_like(found.success) for _ in range(3))
    margins = torch.full(found.success.shape, math.nan, dtype=torch.float64, device=found.success.device)
    for rows in found.success.nonzero()[:, 0].split(batch_size):
        adversarial, goal = found.adversarial[rows], objective.select(rows)
        with torch.no_grad():
            outputs = model(adversarial)
            margin = goal.margin(outputs)
            near = margin.abs() <= rounding_error(outputs, model.precision)
            agrees = margin < 0
            speechless = agrees & ~answered(outputs)
            if double is not None:
                outputs = double(adversarial.to(torch.float64))
                exact = goal.margin(outputs)
                margins[rows] = exact.double()
                near |= exact.abs() <= rounding_error(outputs)
                agrees &= exact < 0
        inside = neighbourhood.select(rows).contains(adversarial)
        confirmed[rows] = (agrees & ~near | speechless) & inside
        tie[rows] = (near | ~agrees) & ~speechless & inside
        silent[rows] = speechless & inside
    return Verified(confirmed, tie, silent, margins)


def _rows(positions: Tensor, found: Found, verified: Verified) -> list[EvidenceRow]:
    columns = zip(
        positions.tolist(),
        verified.confirmed.tolist(),
        verified.tie.tolist(),
        found.margin.tolist(),
        found.size.tolist(),
        found.prediction.masked_fill(verified.silent, NO_ANSWER).tolist(),
        found.confidence.tolist(),
        found.forwards.tolist(),
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
