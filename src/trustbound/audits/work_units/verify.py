"""Successes measured again: at the model's dtype and in float64, before anybody calls an example broken."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.attacks import AttackResult
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.metrics.decision import answered
from trustbound.metrics.margin import rounding_error
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.tasks.view import View
from trustbound.threat import Neighbourhood, Objective


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


def verify(
    model: Model,
    double: Model | None,
    neighbourhood: Neighbourhood,
    objective: Objective,
    found: AttackResult,
    batch_size: int,
    key: int = 0,
    view: View | None = None,
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
    shown = None if view is None else view.select(rows)

    def measured(asked: Model, precision: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor, Cost]:
        """Scores, margins, and below which size these are ties."""
        dtype = asked.input_dtype
        clean, names = ours.inputs.to(dtype), torch.arange(len(rows), device=rows.device)
        adversarial = found.adversarial[rows] if asked is model else again.apply(theta.to(torch.float64))
        window = Oracle(
            asked, examples=len(rows), batch_size=batch_size, key=key, task="the check of successes", silenced=clean
        )
        with window as oracle, oracle.booking("recheck"):
            outputs = oracle.outputs(adversarial.to(dtype), names)
            if shown is None:
                error = rounding_error(outputs, precision)
            else:
                error = shown.rounding_error(outputs, names, precision)
                outputs = shown(outputs, names)
            margin = goal.margin(outputs).double()
            if asked is model:
                rejected.copy_(oracle.rejected(adversarial, names, margin < 0))
        forwards[rows.cpu()] += oracle.forwards
        return outputs, margin, error, oracle.cost

    tie, confirmed, silent = (torch.zeros_like(found.success) for _ in range(3))
    margins = torch.full(found.success.shape, math.nan, dtype=torch.float64, device=found.success.device)
    if not len(rows):
        return Verified(confirmed, tie, silent, margins, forwards, Cost())
    outputs, margin, error, cost = measured(model, model.precision)
    near, agrees = margin.abs() <= error, margin < 0
    speechless = agrees & ~answered(outputs)
    if double is not None:
        outputs, exact, error, more = measured(double)
        known = answered(outputs)
        near |= known & (exact.abs() <= error)
        agrees &= ~known | (exact < 0)
        margins[rows] = exact.masked_fill(~known, math.nan)
        cost = cost + more
    inside = ours.contains(theta) & ~rejected
    confirmed[rows] = (agrees & ~near | speechless) & inside
    tie[rows] = (near | ~agrees) & ~speechless & inside
    silent[rows] = speechless & inside
    return Verified(confirmed, tie, silent, margins, forwards, cost)
