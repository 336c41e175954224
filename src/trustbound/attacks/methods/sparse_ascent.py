"""The l1 form of APGD: steps along few coordinates, as many as the best point so far calls for.

In the l1 ball the steepest direction moves one coordinate, which makes little use of a gradient; a dense one
is cut away by the projection. Here the share of coordinates moved follows the sparsity of the best point.
Reference   Croce and Hein, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers, 2021
            (2103.01208), Algorithm 1.
Deviations  coordinates at a limit of the box that the step would cross are passed over before the largest are
            chosen; the paper leaves them to the projection. The stages at larger radii (multi-epsilon) are
            left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from trustbound.attacks.oracle import Slope
from trustbound.attacks.problem import Problem, State
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


def begin_sparse(problem: Problem, theta: Tensor) -> SparseState:
    """The state at a starting point: steps of epsilon along a fifth of the coordinates."""
    count, features = len(theta), theta[0].numel()
    return SparseState(
        theta=theta,
        done=torch.zeros(count, dtype=torch.bool, device=theta.device),
        best=theta.clone(),
        best_gradient=torch.zeros_like(theta),
        best_loss=torch.full((count,), -torch.inf, dtype=theta.dtype, device=theta.device),
        step_size=problem.neighbourhood.scale(),
        share=torch.full((count,), 0.2, dtype=torch.float64, device=theta.device),
        changed=torch.full((count,), float(features), dtype=torch.float64, device=theta.device),
    )


def climb_sparse(problem: Problem, state: SparseState, slope: Slope, steps: int) -> SparseState:
    """Note the point, judge step and sparsity every 4 % of the run, move along the largest slopes."""
    gradient = slope.gradient
    better = torch.ones_like(state.done) if state.made == 0 else slope.loss > state.best_loss
    rows = better.nonzero()[:, 0]
    state.best[rows] = state.theta[rows]
    state.best_gradient[rows] = gradient[rows]
    state.best_loss = torch.where(better, slope.loss, state.best_loss)
    if state.made and state.made % max(int(0.04 * steps), 1) == 0:
        gradient = _judged(problem, state, gradient)
    ours = cast(AdditiveNeighbourhood, problem.neighbourhood)
    direction = _largest(ours.free(state.theta, gradient), state.share)
    state.theta = problem.neighbourhood.project(state.theta.addcmul(direction, ours.column(state.step_size)))
    state.made += 1
    return state


def _judged(problem: Problem, state: SparseState, gradient: Tensor) -> Tensor:
    """Follow the best point's sparsity; where it stopped falling, shorten the step by a third."""
    changed = (state.best != problem.inputs).flatten(1).sum(dim=1).to(torch.float64)
    sparser = changed < 0.95 * state.changed
    longest = problem.neighbourhood.scale()
    shorter = torch.maximum(state.step_size / 1.5, longest / 10.0)
    state.step_size = torch.where(sparser, longest, shorter)
    state.share = changed / problem.inputs[0].numel() / 1.5
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
