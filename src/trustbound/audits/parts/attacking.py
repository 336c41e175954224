"""One attack stage of the audit: run it on examples, re-measure every success, keep the witnesses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trustbound.attacks import Attack, Found, search
from trustbound.attacks.oracle import Oracle
from trustbound.audits.context import Context, Unit
from trustbound.audits.parts.clean import logit_unit
from trustbound.measure.decision import NO_ANSWER, answered
from trustbound.measure.margin import rounding_error
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow
from trustbound.threat import Access, Neighbourhood, Objective, Random, Threat

#: Examples of the data, drawn at random, from which a search without scores may start.
DONORS = 256


@dataclass(frozen=True, eq=False)
class Verified:
    """Successes measured again.

    Shapes      confirmed, tie (B,) bool: broken beyond rounding error at the model's dtype and in float64, or
                within it; silent (B,) bool: confirmed by outputs that are no answer (NaN, infinity), which no other
                precision can take back; margin64 (B,), NaN where no float64 copy can be made; forwards (B,) what
                measuring again took. A success that the model's detector rejects is neither confirmed nor a tie.
    """

    confirmed: Tensor
    tie: Tensor
    silent: Tensor
    margin64: Tensor
    forwards: Tensor
    cost: Cost


def attack_unit(
    context: Context,
    threat: Threat,
    attack: Attack,
    step: str,
    positions: Tensor,
    shard: int,
    double: Model | None,
    radius: Tensor | None = None,
) -> Unit:
    """Attack the examples at positions, all of them correctly classified; `radius` (B,) replaces epsilon."""
    inputs, labels = context.inputs(positions), context.labels(positions)
    neighbourhood = threat.allowed.around(inputs, context.model.box, radius)
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
        silenced=inputs,
    ) as oracle:
        found = search(
            attack,
            oracle,
            neighbourhood,
            objective,
            random,
            reached=torch.zeros(len(positions), dtype=torch.bool, device=inputs.device),
            donors=_donors(context) if attack.needs is Access.DECISIONS else None,
            unit=None if (unit := logit_unit(context)) == 1.0 else torch.full_like(labels, unit, dtype=torch.float64),
        )
        found = _concerned(found, objective)
    key = context.unit_key(f"{step}/check", shard)
    verified = verify(context.model, double, neighbourhood, objective, found, oracle.batch_size, key)
    broken = verified.confirmed.nonzero()[:, 0].cpu()
    tensors = {}
    if len(broken):
        rows = broken.to(inputs.device)
        tensors = {"position": positions[broken], "adversarial": found.adversarial[rows]}
        if not neighbourhood.additive:
            tensors["theta"] = found.theta[rows]
    silent = int(verified.silent.sum())
    said = f"{silent} examples are broken by inputs to which the model gives no answer: NaN, infinity or an exception"
    return Unit(
        rows=_rows(positions, found, verified),
        cost=found.cost + verified.cost,
        tensors=tensors,
        events=(*found.events, said) if silent else found.events,
    )


def _donors(context: Context) -> Tensor:
    """Examples of the audit from which a search without scores may start: the same for every unit of work."""
    return context.inputs(context.drawn("donors", torch.arange(len(context.data)), DONORS))


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
    key: int = 0,
) -> Verified:
    """Measure successes again: fresh forwards at the model's dtype, others in float64, θ applied and sized in float64.

    Both through oracles of their own, with all logits in view: a random model is averaged over as many fresh draws as
    it declares, and its detector is asked again.
    Inputs on which the model raises an exception count as not answered, as in the search; where the float64 copy
    raises one, the model's own precision decides alone.
    """
    rows = found.success.nonzero()[:, 0]
    theta, goal, ours = found.theta[rows], objective.select(rows), neighbourhood.select(rows)
    again = ours.at(torch.float64)
    forwards = torch.zeros(len(found.success), dtype=torch.int64)
    rejected = torch.zeros_like(rows, dtype=torch.bool)

    def measured(asked: Model) -> tuple[Tensor, Tensor, Cost]:
        dtype = asked.input_dtype
        clean, names = ours.inputs.to(dtype), torch.arange(len(rows), device=rows.device)
        adversarial = found.adversarial[rows] if asked is model else again.apply(theta.to(torch.float64))
        window = Oracle(
            asked, examples=len(rows), batch_size=batch_size, key=key, task="the check of successes", silenced=clean
        )
        with window as oracle:
            outputs = oracle.outputs(adversarial.to(dtype), names)
            margin = goal.margin(outputs).double()
            if asked is model:
                rejected.copy_(oracle.rejected(adversarial, names, margin < 0))
        forwards[rows.cpu()] += oracle.forwards
        return outputs, margin, oracle.cost

    tie, confirmed, silent = (torch.zeros_like(found.success) for _ in range(3))
    margins = torch.full(found.success.shape, math.nan, dtype=torch.float64, device=found.success.device)
    if not len(rows):
        return Verified(confirmed, tie, silent, margins, forwards, Cost())
    outputs, margin, cost = measured(model)
    near, agrees = margin.abs() <= rounding_error(outputs, model.precision), margin < 0
    speechless = agrees & ~answered(outputs)
    if double is not None:
        outputs, exact, more = measured(double)
        known = answered(outputs)
        near |= known & (exact.abs() <= rounding_error(outputs))
        agrees &= ~known | (exact < 0)
        margins[rows] = exact.masked_fill(~known, math.nan)
        cost = cost + more
    inside = ours.contains(theta) & ~rejected
    confirmed[rows] = (agrees & ~near | speechless) & inside
    tie[rows] = (near | ~agrees) & ~speechless & inside
    silent[rows] = speechless & inside
    return Verified(confirmed, tie, silent, margins, forwards, cost)


def _rows(positions: Tensor, found: Found, verified: Verified) -> list[EvidenceRow]:
    columns = zip(
        positions.tolist(),
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
