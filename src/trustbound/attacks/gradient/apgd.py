"""Auto-PGD: projected gradient ascent with momentum; the step size is halved where progress stalls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.gradient.apgd_l1 import SparseState, begin_sparse, climb_sparse
from trustbound.attacks.searching.problem import Problem, State
from trustbound.metrics.losses import Loss
from trustbound.threat import Access, Objective


def checkpoints(steps: int) -> tuple[int, ...]:
    """The moves after which step sizes are judged: ceil(p_j steps), from 0.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06).

    >>> checkpoints(100)
    (0, 22, 41, 57, 70, 80, 87, 93, 99)
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1.0:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # Rounded first: 0.57 · 100 is 56.99999999999999 in binary, and 0.41 · 100 may be 41.00000000000001.
    moves = [math.ceil(round(share * steps, 9)) for share in shares]
    return tuple(sorted({move for move in moves if move < steps}))


@dataclass(kw_only=True, eq=False)
class MomentumState(State):
    """Where the ascent stands.

    Shapes      previous, best, best_gradient (B, *F): the point before, the point of largest loss and the
                gradient there; best_loss, last_loss, step_size (B,); best_before (B,) the largest loss at the
                last checkpoint; rises (B,) moves since then that raised the loss; halved (B,) bool, whether
                the step was halved there. `made` counts the moves.
    """

    previous: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    last_loss: Tensor
    best_before: Tensor
    rises: Tensor
    step_size: Tensor
    halved: Tensor
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Auto-PGD: projected gradient ascent with momentum, its step size halved where progress has stalled.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       gradients.  Sets: linf, l2, l1, those with parameters of their own.
    Update      z <- project(theta + step_size * steepest(gradient)),
                theta <- project(theta + 0.75 (z - theta) + 0.25 (theta - previous)).
                At each checkpoint an example whose loss rose in fewer than 75 % of the moves, or whose best
                loss and step size both stood still, goes back to its best point with half the step size.
                l1: no momentum, sparse steps, and the run begins in balls of three and two times the radius; see
                `sparse_ascent`.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example and restart: `steps` forwards and backwards, then 1 forward re-check.
    Randomness  the start point only.
    Raises      UnsupportedError when the threat gives no gradients, or is no linf, l2 or l1 ball.
    Reference   Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
                parameter-free attacks, 2020 (2003.01690), Algorithm 1; for l1 Croce and Hein, Mind the box:
                l1-APGD for sparse adversarial attacks on image classifiers, 2021 (2103.01208).
    Deviations  the last point is evaluated without its gradient, which nothing would use; random starts are
                uniform in the set, where the reference code scales them to its surface; with
                `random_start=False` the first restart starts at the clean input.

    Parameters
        loss    what is climbed: ce, dlr, margin, probability-margin or another name of `measure.losses`.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(2, 3))
    >>> found = attack("apgd", model, torch.rand(4, 2), torch.zeros(4, dtype=torch.int64), "l2:0.5", steps=5)
    >>> bool((found.size <= 0.5).all())
    True
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.GRADIENTS
    infeasible_norms: ClassVar[tuple[str, ...]] = ("l1",)

    steps: int = 100
    restarts: int = 1
    loss: str | Loss = "ce"
    random_start: bool = True

    def init(self, problem: Problem) -> MomentumState | SparseState:
        """A random point of the set, or the clean input."""
        ours = problem.neighbourhood
        clean = not self.random_start and problem.restart == 0
        theta = ours.origin() if clean else ours.start(problem.random, problem.restart)
        if ours.norm == "l1":
            return begin_sparse(problem, theta)
        lowest = torch.full((len(theta),), -torch.inf, dtype=theta.dtype, device=theta.device)
        no = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
        return MomentumState(
            theta=theta,
            done=no,
            previous=theta.clone(),
            best=theta.clone(),
            best_gradient=torch.zeros_like(theta),
            best_loss=lowest,
            last_loss=lowest.clone(),
            best_before=lowest.clone(),
            rises=torch.zeros_like(no, dtype=torch.int64),
            step_size=2.0 * ours.scale(),
            halved=no.clone(),
        )

    def step(self, problem: Problem, state: MomentumState | SparseState) -> MomentumState | SparseState:
        """Evaluate the point, judge the step size at a checkpoint, move."""
        return self.advance(problem, state, None)

    def advance(
        self, problem: Problem, state: MomentumState | SparseState, objective: Objective | None
    ) -> MomentumState | SparseState:
        """One step, climbing the goal's loss or that of another objective."""
        slope = problem.gradient(state.theta, self.loss, objective=objective)
        if isinstance(state, SparseState):
            return climb_sparse(problem, state, slope, self.steps)
        gradient = _noted(state, slope.gradient, slope.loss)
        marks = checkpoints(self.steps)
        if state.made in marks[1:]:
            span = state.made - marks[marks.index(state.made) - 1]
            gradient = _judged(state, gradient, span)
        _move(problem, state, gradient)
        return state


def _noted(state: MomentumState, gradient: Tensor, loss: Tensor) -> Tensor:
    """Keep the point where its loss is the largest yet."""
    better = torch.ones_like(state.done) if state.made == 0 else loss > state.best_loss
    rows = better.nonzero()[:, 0]
    state.best[rows] = state.theta[rows]
    state.best_gradient[rows] = gradient[rows]
    state.best_loss = torch.where(better, loss, state.best_loss)
    if state.made == 0:
        state.best_before = loss
    else:
        state.rises += loss > state.last_loss
    state.last_loss = loss
    return gradient


def _judged(state: MomentumState, gradient: Tensor, span: int) -> Tensor:
    """Halve the steps that stopped paying and go back to the best point; returns the gradient there."""
    restless = state.rises < 0.75 * span
    stalled = ~state.halved & (state.best_loss <= state.best_before)
    state.halved = restless | stalled
    back = state.halved.reshape(-1, *(1,) * (gradient.dim() - 1))
    state.theta = torch.where(back, state.best, state.theta)
    state.last_loss = torch.where(state.halved, state.best_loss, state.last_loss)
    state.step_size = torch.where(state.halved, state.step_size / 2.0, state.step_size)
    state.best_before = state.best_loss
    state.rises = torch.zeros_like(state.rises)
    return torch.where(back, state.best_gradient, gradient)


def _move(problem: Problem, state: MomentumState, gradient: Tensor) -> None:
    """The projected step, mixed with the move before; the first move is the plain step."""
    ours = problem.neighbourhood
    direction = ours.steepest(state.theta, gradient)
    moved = ours.project(torch.addcmul(state.theta, direction, ours.column(state.step_size)))
    if state.made:
        # θ + α (z − θ) + (1 − α)(θ − previous), with α = 3/4
        moved = ours.project(moved.mul_(0.75).add_(state.theta, alpha=0.5).sub_(state.previous, alpha=0.25))
    state.previous, state.theta = state.theta, moved
    state.made += 1
