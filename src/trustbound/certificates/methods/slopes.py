"""Lower slopes of unstable ReLUs, chosen for every row so that its bound becomes as large as can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.certificates.graph.operations import Activation
from trustbound.certificates.methods.backward import Coefficients, propagate_backward
from trustbound.certificates.methods.relaxations import LinearRelaxation
from trustbound.certificates.methods.relaxed_network import RelaxedNetwork

#: Adam's decays, its floor, and what each step leaves of the step size.
FIRST, SECOND, FLOOR, DECAY = 0.9, 0.999, 1e-8, 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class Ascent:
    """Adam's ascent: how many steps, and how far the first one goes.

    >>> point = torch.zeros(1)
    >>> Ascent(steps=3, step_size=0.1).move(point, torch.ones(1), torch.zeros(2, 1), 1)
    >>> round(float(point), 4)
    0.1
    """

    steps: int
    step_size: float

    def move(self, point: Tensor, gradient: Tensor, memory: Tensor, step: int) -> None:
        """Move a point in place; `memory` (2, *shape) holds both moments, `step` counts from 1."""
        mean, square = memory
        mean.mul_(FIRST).add_(gradient, alpha=1 - FIRST)
        square.mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
        root = (square / (1 - SECOND**step)).sqrt_().add_(FLOOR)
        point.addcdiv_(mean, root, value=self.step_size * DECAY ** (step - 1) / (1 - FIRST**step))


def optimised_slopes(
    network: RelaxedNetwork, single: RelaxedNetwork, start: int, rows: Coefficients, ascent: Ascent, goal: Tensor
) -> dict[int, Tensor]:
    """Return slopes for every activation before `start` and every row, sound whatever was found.

    The ascent is Adam's, in float32 and projected to between the activation's own slope and 1, from the slopes of the
    relaxations; of each row the iterate with the largest bound is returned. Groups whose rows are all above their goal
    are left alone; once half are, the others go on without them.

    Parameters
        single      the same network in float32.
        goal        (G, K), or what broadcasts to it.
    """
    met: dict[int, Coefficients] = {}
    narrow = rows.single()
    most = propagate_backward(single, start, narrow, met=met).value
    here = {index: found for index, found in met.items() if isinstance(network.graph.operations[index], Activation)}
    slopes, free = _starting(single, here)
    best = {index: slope.clone() for index, slope in slopes.items()}
    memory = {index: torch.zeros(2, *slope.shape, device=slope.device) for index, slope in slopes.items()}
    goal, alive = goal.expand_as(most), torch.arange(len(most), device=most.device)
    for step in range(1, ascent.steps + 2):
        left = (~(most > goal).all(1))[alive].nonzero()[:, 0]
        if not free or not len(left):
            break
        if 2 * len(left) <= len(alive):
            alive, narrow = alive[left], narrow.select(left)
            slopes, free = ({index: part[left] for index, part in parts.items()} for parts in (slopes, free))
            memory = {index: part[:, left] for index, part in memory.items()}
        climbing = step <= ascent.steps
        with torch.set_grad_enabled(climbing):
            points = [slope.requires_grad_(climbing) for slope in slopes.values()]
            bound = propagate_backward(single, start, narrow, slopes=slopes).value
            gradients: Sequence[Tensor | None] = [None] * len(points)
            if climbing:
                gradients = torch.autograd.grad(bound.sum(), points, allow_unused=True)
        better = bound.detach() > most[alive]
        most[alive] = torch.fmax(most[alive], bound.detach())
        for (index, slope), gradient in zip(slopes.items(), gradients, strict=True):
            slope.requires_grad_(False)
            rows_better = better.reshape(*better.shape, *[1] * (slope.ndim - 2))
            best[index][alive] = torch.where(rows_better, slope, best[index][alive])
            if gradient is not None:
                ascent.move(slope, gradient * free[index], memory[index], step)
                slope.clamp_(_least(network, index), 1.0)
    return {index: sound_slopes(network, index, slope, here[index]) for index, slope in best.items()}


def sound_slopes(network: RelaxedNetwork, index: int, slopes: Tensor, rows: Coefficients) -> Tensor:
    """Return slopes that lie below the activation: any between its own and 1, where it is unstable.

    Below zero α z ≤ slope · z for α ≥ slope, above it α z ≤ z for α ≤ 1: no other slope may be chosen, and where the
    activation is stable none but its own line's.
    """
    relaxation = network.relaxations[index]
    assert isinstance(relaxation, LinearRelaxation)
    below, above = rows.local(relaxation.below), rows.local(relaxation.above)
    return torch.where(below != above, slopes.to(below.dtype).clamp(_least(network, index), 1.0), below)


def _starting(single: RelaxedNetwork, met: dict[int, Coefficients]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Return the slopes of the relaxations for every row, and where they may be moved."""
    slopes: dict[int, Tensor] = {}
    free: dict[int, Tensor] = {}
    for index, rows in met.items():
        relaxation = single.relaxations[index]
        assert isinstance(relaxation, LinearRelaxation)
        below, above = rows.local(relaxation.below), rows.local(relaxation.above)
        unstable = below != above
        if bool(unstable.any()):
            slopes[index] = below.expand_as(rows.coefficients).clone()
            free[index] = unstable
    return slopes, free


def _least(network: RelaxedNetwork, index: int) -> float:
    """Return an activation's slope below zero."""
    step = network.graph.operations[index]
    assert isinstance(step, Activation)
    return step.slope
