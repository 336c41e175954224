"""The nearest classes: by logit gap, or by the distance at which a linear model would close it."""

from __future__ import annotations

import torch
from torch import Tensor

from trustbound.attacks.searching.problem import Problem

#: The norm dual to each ball: how much a unit of the set can change a linear function of the input.
DUAL = {"linf": 1.0, "l2": 2.0, "l1": torch.inf, "l0": torch.inf}


def by_gap(outputs: Tensor, labels: Tensor) -> Tensor:
    """Classes other than the label, smallest logit gap first, (B, C − 1).

    >>> by_gap(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([[2, 1]])
    """
    others = outputs.scatter(1, labels[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, :-1]


def by_slope(problem: Problem, outputs: Tensor, candidates: int, dual: float) -> Tensor:
    """The `candidates` classes of smallest gap, ordered by gap over the dual norm of its gradient (B, k).

    A gap is closed soonest where it is small for how fast the input can change it. At a correctly classified
    input the targeted margin is that gap.
    Cost        `candidates` forwards and backwards per example.
    Reference   Melamed, Yehudai and Vardi, MALT powers up adversarial attacks, 2024 (2407.02240).
    """
    labels = problem.objective.labels
    near = by_gap(outputs, labels)[:, :candidates]
    count, width = near.shape
    owner = torch.arange(count, device=near.device).repeat_interleave(width)
    towards = problem.objective.select(owner).towards(near.reshape(-1))
    origin = problem.neighbourhood.origin()[owner]
    slope = problem.gradient(origin, "margin", objective=towards, owner=owner)
    steepness = slope.gradient.flatten(1).norm(p=dual, dim=1).reshape(count, width)
    gap = outputs.gather(1, labels[:, None]) - outputs.gather(1, near)
    order = (gap / steepness.clamp(min=torch.finfo(gap.dtype).tiny)).argsort(dim=1, stable=True)
    return near.gather(1, order)
