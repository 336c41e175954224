"""Walk along the decision boundary: cross it at any distance, then slide back towards the clean input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from trustbound.attacks.gradient.nearest_classes import by_gap
from trustbound.attacks.minimal.fab import closing
from trustbound.attacks.minimal.hyperplanes import shortest
from trustbound.attacks.model_access.smooth_relu import SmoothBackward
from trustbound.attacks.refusals import whole
from trustbound.attacks.searching.problem import Batched, Problem, State
from trustbound.errors import InputError
from trustbound.threat import Access
from trustbound.threat.neighbourhood import AdditiveNeighbourhood

#: The order of each norm.
_ORDER = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}

STARTS = ("clean", "random")


@dataclass(kw_only=True, eq=False)
class WalkMemory(Batched):
    """Classes by rank (B, k), and each ReLU's spread at the clean input (B, L); no columns where none is smoothed."""

    order: Tensor
    scales: Tensor


@dataclass(kw_only=True, eq=False)
class BoundaryState(State):
    """θ stays at the clean input, for `point` (B, *F) may lie outside the set; `made` counts the steps."""

    point: Tensor
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class BoundaryWalk:
    """Cross the boundary wherever it is, then slide along it back towards the clean input, one gradient a step.

    A climb inside the set stops where the gradient misleads; this one crosses outside of it and comes back. Each step
    lands on the boundary linearised at the point, between the nearest of its points and the one nearest to the clean
    input, which counts less and less; a point that has crossed is drawn back besides. One evaluation gives both the
    verdict on a point and the next direction, where `fab` takes two.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       gradients.  Sets: linf, l2, l1.
    Update      d, d0 <- the shortest changes of x and of the clean x0 onto the hyperplane, inside the box;
                x <- clip((1 - a) (x + eta d) + a (x0 + eta d0)), a falling linearly from `lean` to 0;
                x <- x0 + beta (x - x0) where the point before had crossed.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example: 1 forward, 1 more where the backward pass is smoothed; for each target `steps` forwards
                and backwards; then 1 forward re-check. Classes beyond C - 1 cost nothing.
    Randomness  the starts, where they are random.
    Raises      UnsupportedError when the threat gives no gradients, is no linf, l2 or l1 ball, or the backward pass
                of a model without ReLU-like activations is to be smoothed.
    Reference   kin: Croce and Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack,
                2020 (1907.02044).
    Deviations  an own method: what differs from `fab` is the single evaluation, the share of the clean input's
                projection (theirs follows from the two distances and is a tenth at most), and the smooth backward
                pass. Measured in `benchmarks/README.md`.

    Parameters
        steps       for each target.
        targets     how many classes are tried at most, by their logit at the clean input.
        start       "clean", or "random": as far from the clean input as the set reaches.
        lean        how much of the clean input's own projection is mixed in at first.
        overshoot   eta, how far beyond the hyperplane a projection goes.
        contraction beta, how far a point that has crossed is drawn back.
        sharpness   k of the smooth backward pass of `smooth-pgd`; None for the plain gradient.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(2, 3))
    >>> found = attack("boundary-walk", model, torch.rand(4, 2), torch.zeros(4, dtype=torch.int64), "l2:1", steps=5)
    >>> int(found.cost.backwards) <= 4 * 2 * 5
    True
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.GRADIENTS
    infeasible_norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    steps: int = 40
    targets: int = 3
    start: str = "clean"
    lean: float = 0.3
    overshoot: float = 1.05
    contraction: float = 0.9
    sharpness: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are none."""
        whole("targets", self.targets)
        if self.start not in STARTS:
            raise InputError(f"`start` must be one of {', '.join(STARTS)}; got {self.start!r}")
        if self.sharpness is not None and not 0 < self.sharpness < math.inf:
            raise InputError(f"`sharpness` must be a positive number, or None; got {self.sharpness!r}")

    @property
    def restarts(self) -> int:
        """One for each target."""
        return self.targets

    @property
    def initial_forwards(self) -> int:
        """Forwards before the first step."""
        return 1 if self.sharpness is None else 2

    def prepare(self, problem: Problem) -> WalkMemory:
        """Order the classes of each example, and measure the scales."""
        named = problem.objective.targets
        if named is not None:
            order = named.unsqueeze(1)
        else:
            outputs = problem.outputs(problem.neighbourhood.origin())
            order = by_gap(outputs, problem.objective.labels)[:, : self.targets]
        scales = problem.inputs.new_zeros(len(problem), 0)
        if self.sharpness is not None:
            scales = problem.oracle.scales(problem.inputs, problem.search_rows)
        return WalkMemory(order=order, scales=scales)

    def init(self, problem: Problem) -> BoundaryState:
        """The clean input or a random point; finished at once where the classes have run out."""
        ours = cast(AdditiveNeighbourhood, problem.neighbourhood)
        point = ours.origin()
        if self.start == "random":
            random = problem.random.stream("boundary-walk")
            drawn = random.normal(tuple(point.shape[1:]), restart=problem.restart, draw=0, dtype=point.dtype)
            length = drawn.flatten(1).norm(p=_ORDER[ours.norm], dim=1)
            point = (point + drawn * ours.column(ours.scale() / length)).clamp(ours.low, ours.high)
        out = problem.restart >= _memory(problem).order.shape[1]
        done = torch.full((len(problem),), out, device=point.device)
        return BoundaryState(theta=problem.inputs, done=done, point=point)

    def step(self, problem: Problem, state: BoundaryState) -> BoundaryState:
        """Look at the point, and go on along the boundary that is seen from it."""
        ours, memory = cast(AdditiveNeighbourhood, problem.neighbourhood), _memory(problem)
        smooth = None if self.sharpness is None else SmoothBackward(self.sharpness, memory.scales)
        towards = problem.objective.towards(memory.order[:, problem.restart])
        slope = problem.gradient(state.point, closing(problem), objective=towards, smooth=smooth)
        normal = slope.gradient.flatten(1).nan_to_num(0.0, 0.0, 0.0)
        crossed = problem.objective.margin(slope.outputs) < 0
        # Another class than the target may have been reached, or less than the goal asks for: go by the goal.
        gap = torch.where(crossed, -slope.loss.abs(), slope.loss.abs())
        origin, point = problem.inputs.flatten(1), state.point.flatten(1)
        behind = gap + (normal * (point - origin)).sum(1)
        both = torch.cat([point, origin])
        low, high = (
            limit.expand(problem.inputs.shape[1:]).flatten() if limit.dim() else limit
            for limit in (ours.low, ours.high)
        )
        change = shortest(normal.repeat(2, 1), torch.cat([gap, behind]), both - low, high - both, ours.norm)
        onto, over = (both + self.overshoot * change).chunk(2)
        share = self.lean * (1.0 - state.made / self.steps)
        moved = ((1.0 - share) * onto + share * over).clamp(low, high)
        drawn = origin + self.contraction * (moved - origin)
        state.point = torch.where(crossed.unsqueeze(1), drawn, moved).reshape(state.point.shape)
        state.made += 1
        return state


def _memory(problem: Problem) -> WalkMemory:
    if not isinstance(problem.memory, WalkMemory):
        raise TypeError("`prepare` was not called before the first restart")
    return problem.memory
