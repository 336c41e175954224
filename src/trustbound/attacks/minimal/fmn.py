"""Fast minimum-norm (FMN): gradient steps in a ball whose radius closes in on the boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.gradient.nearest_classes import DUAL
from trustbound.attacks.minimal.ddn import boundary, climbed, cosine, directed
from trustbound.attacks.refusals import check_seeks
from trustbound.attacks.searching.problem import Problem, State
from trustbound.threat import Access
from trustbound.threat.neighbourhood import AdditiveNeighbourhood

#: First steps in units of the estimated distance: long ones find more where the gradient misleads, but in the norms
#: that move few coordinates they leave changes behind that were not needed.
_OVERSHOOT = {"linf": 3.0, "l2": 3.0, "l1": 1.0, "l0": 1.0}


@dataclass(kw_only=True, eq=False)
class ReachState(State):
    """Where the search stands.

    Shapes      reach (B,) the ball's radius; pace (B,) the first step's Euclidean length; crossed (B,) bool,
                whether a success was seen. `made` counts the steps.
    """

    reach: Tensor
    pace: Tensor
    crossed: Tensor
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class FMN:
    """Minimum-norm attack in any norm: steps along the gradient, projected onto a ball that adapts.

    After a success the radius falls below the smallest change found, after a failure it grows; before the
    first success it is the estimate of a linear model, margin / dual norm of its gradient.

    Bound       Upper. Each success is a checked witness; its size bounds the distance from above.
    Needs       gradients.  Sets: linf, l2, l1, l0; epsilon is the cap, e.g. l2:inf for none.
    Update      theta <- project(theta + a * gradient / |gradient|_2, reach); reach <- reach * (1 -+ gamma); for
                l0 reach moves by whole coordinates. gamma falls from 0.05 to 0.001, a from `step_size` to a
                hundredth of it, along half a cosine.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example: `steps` forwards and backwards, then 1 forward re-check.
    Randomness  none, but for a direction where the gradient vanishes.
    Raises      UnsupportedError when the threat gives no gradients.
    Reference   Pintor et al., Fast minimum-norm adversarial attacks through adaptive norm constraints, 2021
                (2102.12827), Algorithm 1.
    Deviations  `loss` None climbs the scaled soft margin, which does not commit to one wrong class, for three
                tenths of the steps and the margin for the rest (the paper: the margin throughout), along the
                coordinates that the box leaves free; `step_size` None starts each example at steps of its own
                estimated Euclidean distance to the boundary, three times that for linf and l2, in place of 1
                for all; the estimate is overshot by gamma, without which it may close in on the boundary and
                never cross it; the projection is the exact one onto ball and box; radii are capped by the
                threat.

    Parameters
        step_size   the first step's Euclidean length; None for each example's own.
        gamma, gamma_final  by what share the radius moves, at the first step and at the last.
        loss        what is climbed throughout; None for two in turn.
        seeks       smallest, or any: an example then stops at its first success inside epsilon.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(2, 2))
    >>> found = attack("fmn", model, torch.rand(3, 2), torch.zeros(3, dtype=torch.int64), "l1:inf", steps=20)
    >>> bool(found.size[found.success].isfinite().all())
    True
    """

    needs: ClassVar[Access] = Access.GRADIENTS
    restarts: ClassVar[int] = 1

    steps: int = 100
    step_size: float | None = None
    gamma: float = 0.05
    gamma_final: float = 0.001
    loss: str | None = None
    seeks: str = "smallest"

    def __post_init__(self) -> None:
        """Refuse what nobody can seek."""
        check_seeks(self.seeks)

    def init(self, problem: Problem) -> ReachState:
        """Start at the clean input; for l0 and l1 with a radius of 1, as far as it is allowed."""
        ours = problem.neighbourhood
        sparse = ours.norm in ("l0", "l1")
        return ReachState(
            theta=ours.origin(),
            done=torch.zeros(len(problem), dtype=torch.bool, device=problem.inputs.device),
            reach=ours.scale().clamp(max=1.0) if sparse else ours.scale(),
            pace=torch.full_like(ours.scale(), _diagonal(problem) if self.step_size is None else self.step_size),
            crossed=torch.zeros(len(problem), dtype=torch.bool, device=problem.inputs.device),
        )

    def step(self, problem: Problem, state: ReachState) -> ReachState:
        """Evaluate, set the radius, move inside it."""
        ours = problem.neighbourhood
        slope = problem.gradient(state.theta, climbed(self.loss, state.made, self.steps))
        margin = problem.objective.margin(slope.outputs)
        reached, gap = margin < 0, margin.clamp(min=0.0)
        gradient = slope.gradient
        if isinstance(ours, AdditiveNeighbourhood):
            gradient = ours.free(state.theta, gradient)
        if state.made == 0 and self.step_size is None:
            state.pace = torch.minimum(state.pace, _OVERSHOOT[ours.norm] * boundary(gap, gradient, 2.0))
        state.crossed = state.crossed | reached
        rate = cosine(state.made, self.steps, self.gamma, self.gamma_final)
        closest = problem.best_so_far.size[problem.search_rows]
        if ours.norm == "l0":
            reach = _by_coordinates(state.reach, reached, closest, rate)
        else:
            away = ours.size(state.theta) + boundary(gap, gradient, DUAL[ours.norm])
            failed = torch.where(state.crossed, state.reach, away) * (1.0 + rate)
            reach = torch.where(reached, torch.minimum(state.reach * (1.0 - rate), closest), failed)
        state.reach = torch.minimum(reach, ours.scale())
        pace = ours.column(state.pace * cosine(state.made, self.steps, 1.0, 0.01))
        moved = torch.addcmul(state.theta, directed(problem, gradient, state.made), pace)
        state.theta = ours.project(moved, state.reach)
        state.made += 1
        return state


def _diagonal(problem: Problem) -> float:
    """The longest Euclidean step that the box leaves room for; 1 where θ is no input."""
    ours = problem.neighbourhood
    if not isinstance(ours, AdditiveNeighbourhood):
        return 1.0
    return float((ours.high - ours.low).to(torch.float64).expand(ours.inputs.shape[1:]).norm())


def _by_coordinates(reach: Tensor, reached: Tensor, closest: Tensor, rate: float) -> Tensor:
    """The l0 radius: at least one coordinate less after a success, one more after a failure."""
    fewer = torch.minimum(torch.minimum(reach - 1.0, (reach * (1.0 - rate)).floor()), closest)
    more = torch.maximum(reach + 1.0, (reach * (1.0 + rate)).floor())
    return torch.where(reached, fewer, more).clamp(min=0.0)
