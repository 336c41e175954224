"""Auto-PGD under l1: sparse steps, along as many coordinates as the best point so far calls for.

In the l1 ball the steepest direction moves one coordinate, which makes little use of a gradient; a dense one
is cut away by the projection. Here the share of coordinates moved follows the sparsity of the best point.
Reference   Croce and Hein, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers, 2021
            (2103.01208), Algorithm 1.
Deviations  coordinates at a limit of the box that the step would cross are passed over before the largest are
            chosen; the paper leaves them to the projection. Stages at larger radii are rounded down to whole steps
            (the published code: up), so that short runs end in the set.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from trustbound.attacks.model_access.gradient_evaluation import GradientEvaluation
from trustbound.attacks.searching.problem import Problem, State
from trustbound.threat.neighbourhood import AdditiveNeighbourhood


@dataclass(kw_only=True, eq=False)
class SparseState(State):
    """Where the ascent stands.

    Shapes      best, best_gradient (B, *F); best_loss, step_size (B,); share (B,) of coordinates that a step
                moves; changed (B,) coordinates that the best point of the last checkpoint had changed.
                `made` counts the moves.
    """

    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step_size: Tensor
    share: Tensor
    changed: Tensor
    made: int = 0


#: A run begins in a ball of three times the radius and goes on in one of twice it: the multi-epsilon of the paper.
RADII = (3.0, 2.0, 1.0)


def stages(steps: int) -> tuple[int, ...]:
    """The moves at which the stages of a run end: three tenths of it, three tenths, and the rest.

    >>> stages(100), stages(4)
    ((30, 60, 100), (1, 2, 4))
    """
    part = math.floor(round(0.3 * steps, 9))
    return part, 2 * part, steps


def widened(ours: AdditiveNeighbourhood, times: float) -> AdditiveNeighbourhood:
    """The same ball with so many times the radius, as far as the box lets it matter."""
    return dataclasses.replace(ours, radius=times * ours.scale())


def begin_sparse(problem: Problem, theta: Tensor) -> SparseState:
    """The state at a starting point: steps of epsilon along a fifth of the coordinates."""
    count, features = len(theta), theta[0].numel()
    return SparseState(
        theta=theta,
        done=torch.zeros(count, dtype=torch.bool, device=theta.device),
        best=theta.clone(),
        best_gradient=torch.zeros_like(theta),
        best_loss=torch.full((count,), -torch.inf, dtype=theta.dtype, device=theta.device),
        step_size=RADII[0] * problem.neighbourhood.scale(),
        share=torch.full((count,), 0.2, dtype=torch.float64, device=theta.device),
        changed=torch.full((count,), float(features), dtype=torch.float64, device=theta.device),
    )


def climb_sparse(problem: Problem, state: SparseState, slope: GradientEvaluation, steps: int) -> SparseState:
    """Note the point, judge step and sparsity every 4 % of a stage, move along the largest slopes.

    At the end of a stage the best point is drawn into the ball of the next, whose run begins there.
    """
    gradient, ends = slope.gradient, stages(steps)
    stage = sum(state.made >= end for end in ends[:-1])
    begun = state.made - (ends[stage - 1] if stage else 0)
    ours = widened(cast(AdditiveNeighbourhood, problem.neighbourhood), RADII[stage])
    better = torch.ones_like(state.done) if begun == 0 else slope.loss > state.best_loss
    rows = better.nonzero()[:, 0]
    state.best[rows] = state.theta[rows]
    state.best_gradient[rows] = gradient[rows]
    state.best_loss = torch.where(better, slope.loss, state.best_loss)
    length = ends[stage] - (ends[stage - 1] if stage else 0)
    if begun and begun % max(int(0.04 * length), 1) == 0:
        gradient = _judged(ours, state, gradient)
    direction = _largest(ours.free(state.theta, gradient), state.share)
    state.theta = ours.project(state.theta.addcmul(direction, ours.column(state.step_size)))
    state.made += 1
    if state.made in ends[:-1] and state.made < steps:
        _enter(widened(cast(AdditiveNeighbourhood, problem.neighbourhood), RADII[ends.index(state.made) + 1]), state)
    return state


def _enter(ours: AdditiveNeighbourhood, state: SparseState) -> None:
    """Begin the next stage: from the best point of the last, drawn into the smaller ball."""
    state.theta = ours.project(state.best.clone())
    state.changed = (state.theta != ours.inputs).flatten(1).sum(dim=1).to(torch.float64)
    state.share = state.changed / ours.inputs[0].numel() / 1.5
    state.step_size = ours.scale()


def _judged(ours: AdditiveNeighbourhood, state: SparseState, gradient: Tensor) -> Tensor:
    """Follow the best point's sparsity; where it stopped falling, shorten the step by a third."""
    changed = (state.best != ours.inputs).flatten(1).sum(dim=1).to(torch.float64)
    sparser = changed < 0.95 * state.changed
    longest = ours.scale()
    shorter = torch.maximum(state.step_size / 1.5, longest / 10.0)
    state.step_size = torch.where(sparser, longest, shorter)
    state.share = changed / ours.inputs[0].numel() / 1.5
    state.changed = changed
    back = sparser.reshape(-1, *(1,) * (gradient.dim() - 1))
    state.theta = torch.where(back, state.best, state.theta)
    return torch.where(back, state.best_gradient, gradient)


def _largest(gradient: Tensor, share: Tensor) -> Tensor:
    """Signs on the share (B,) of coordinates of largest slope, at l1 length 1."""
    flat = gradient.flatten(1)
    count = (share * flat.shape[1]).to(torch.int64).clamp(min=1, max=flat.shape[1])
    ranked = flat.abs().sort(dim=1, descending=True).values
    least = ranked.gather(1, count[:, None] - 1)
    signs = flat.sign() * (flat.abs() >= least)
    return (signs / signs.abs().sum(dim=1, keepdim=True).clamp(min=1.0)).reshape(gradient.shape)
