"""Fast adaptive boundary (FAB): repeated projection onto the linearised boundary, biased to the clean input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from trustbound.attacks.gradient.nearest_classes import DUAL, by_gap
from trustbound.attacks.minimal.hyperplanes import shortest
from trustbound.attacks.refusals import check_seeks
from trustbound.attacks.searching.problem import Problem, State
from trustbound.threat import Access
from trustbound.threat.neighbourhood import AdditiveNeighbourhood

#: The order of each norm.
_ORDER = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}


@dataclass(kw_only=True, eq=False)
class WalkState(State):
    """Where a walk stands: θ stays at the clean input, for `point` (B, *F) may lie outside the set.

    `outputs` (B, C) are those last seen, at the point or just beyond it.
    """

    point: Tensor
    outputs: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class FAB:
    """Minimum-norm attack: project onto the linearised boundary, with a bias to the clean input, then contract.

    The nearest of the boundaries with other classes is taken at each step. A point is carried onto it, together with
    the clean input, past it by `overshoot`, and the two are mixed; what crosses is kept and drawn back.

    Bound       Upper. Each success is a checked witness; its size bounds the distance from above.
    Needs       gradients.  Sets: linf, l2, l1; epsilon is the cap, e.g. l2:inf for none.
    Update      d, d0 <- the shortest changes of x and of the clean x0 onto the hyperplane, inside the box;
                a <- min(|d| / (|d| + |d0|), alpha);  x <- clip((1 - a) (x + eta d) + a (x0 + eta d0));
                where x crosses, x <- (1 - beta) x0 + beta x. Restarts begin at random, half as far as the smallest
                change so far.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example and step: `candidates` forwards and backwards (no more than C - 1), and 1 forward; 1
                forward for each start; then 1 forward re-check.
    Randomness  the starts of all restarts but the first.
    Raises      UnsupportedError when the threat gives no gradients, or is no linf, l2 or l1 ball.
    Reference   Croce and Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack, 2020
                (1907.02044), Algorithm 1.
    Deviations  classes beyond the `candidates` of smallest logit gap at the point are not looked at (the paper: all);
                no final line search, as in the authors' own later code.

    Parameters
        steps       per restart.
        restarts    starts; the first is the clean input.
        lean        alpha, how much of the clean input's own projection is mixed in at most.
        overshoot   eta, how far beyond the hyperplane a projection goes.
        contraction beta, how far a success is drawn back.
        seeks       smallest, or any: an example then stops at its first success inside epsilon.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(2, 2))
    >>> found = attack("fab", model, torch.rand(3, 2), torch.zeros(3, dtype=torch.int64), "l1:inf", steps=10)
    >>> bool(found.size[found.success].isfinite().all())
    True
    """

    needs: ClassVar[Access] = Access.GRADIENTS
    infeasible_norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    steps: int = 100
    restarts: int = 1
    candidates: int = 9
    lean: float = 0.1
    overshoot: float = 1.05
    contraction: float = 0.9
    seeks: str = "smallest"

    def __post_init__(self) -> None:
        """Refuse what nobody can seek."""
        check_seeks(self.seeks)

    @property
    def forwards_per_step(self) -> int:
        """Forwards that a step asks for at most."""
        return self.candidates + 1

    @property
    def initial_forwards(self) -> int:
        """Forwards at the starts."""
        return self.restarts

    def init(self, problem: Problem) -> WalkState:
        """Start at the clean input, or at random."""
        state = started(problem, problem.restart)
        state.outputs = problem.outputs(state.point)
        return state

    def step(self, problem: Problem, state: WalkState) -> WalkState:
        """Find the nearest linearised boundary, and go there."""
        labels, named = problem.objective.labels, problem.objective.targets
        if named is not None:
            classes = named.unsqueeze(1)
        else:
            classes = by_gap(cast(Tensor, state.outputs), labels)[:, : self.candidates]
        count, width = classes.shape
        owner = torch.arange(count, device=classes.device).repeat_interleave(width)
        towards = problem.objective.select(owner).towards(classes.reshape(-1))
        slope = problem.gradient(state.point[owner], closing(problem), objective=towards, owner=owner)
        gap = -slope.loss.reshape(count, width)
        flat = slope.gradient.flatten(1).reshape(count, width, -1)
        dual = DUAL[problem.neighbourhood.norm]
        away = gap.abs() / flat.norm(p=dual, dim=2).clamp(min=torch.finfo(flat.dtype).tiny)
        nearest = away.nan_to_num(torch.inf, torch.inf).argmin(dim=1)
        rows = torch.arange(count, device=classes.device)
        state.outputs = slope.outputs.reshape(count, width, -1)[:, 0]
        return walked(problem, state, flat[rows, nearest], gap[rows, nearest], self)


def closing(problem: Problem) -> str:
    """The difference that is 0 on the boundary: to the label, or from a named class to the best other one."""
    return "difference" if problem.objective.targets is None else "margin"


def started(problem: Problem, turn: int) -> WalkState:
    """The clean input at the first turn; later half the smallest change so far away from it, at random."""
    ours = problem.neighbourhood
    point = ours.origin()
    if turn and isinstance(ours, AdditiveNeighbourhood):
        shape, norm = tuple(point.shape[1:]), ours.norm
        random = problem.random.stream("fab")
        if norm == "linf":
            drawn = random.uniform(shape, restart=turn, draw=0, dtype=point.dtype) * 2 - 1
        else:
            drawn = random.normal(shape, restart=turn, draw=0, dtype=point.dtype)
        length = drawn.flatten(1).norm(p=_ORDER[norm], dim=1)
        reach = torch.minimum(problem.best_so_far.size[problem.search_rows], ours.scale()) / 2
        point = (point + drawn * ours.column(reach / length)).clamp(ours.low, ours.high)
    done = torch.zeros(len(problem), dtype=torch.bool, device=point.device)
    return WalkState(theta=problem.inputs, done=done, point=point)


def walked(problem: Problem, state: WalkState, normal: Tensor, gap: Tensor, attack: FAB) -> WalkState:
    """One step: `normal` (B, D) is the gradient of the difference that is to rise by `gap` (B,) from the point."""
    ours = cast(AdditiveNeighbourhood, problem.neighbourhood)
    origin, point = problem.inputs.flatten(1), state.point.flatten(1)
    normal = normal.nan_to_num(0.0, 0.0, 0.0)
    # Other goals ask for more than another class: where the boundary is crossed and they are not, as far again.
    short = problem.objective.margin(cast(Tensor, state.outputs)) >= 0
    gap = torch.where(short, gap.abs(), gap)
    behind = gap + (normal * (point - origin)).sum(1)
    both = torch.cat([point, origin])
    low, high = (
        limit.expand(problem.inputs.shape[1:]).flatten() if limit.dim() else limit for limit in (ours.low, ours.high)
    )
    change = shortest(normal.repeat(2, 1), torch.cat([gap, behind]), both - low, high - both, ours.norm)
    own, back = (part.norm(p=_ORDER[ours.norm], dim=1).clamp(min=1e-8) for part in change.chunk(2))
    share = (own / (own + back)).clamp(0.0, attack.lean).unsqueeze(1)
    onto, over = (both + attack.overshoot * change).chunk(2)
    moved = ((1.0 - share) * onto + share * over).clamp(low, high).reshape(state.point.shape)
    state.outputs = problem.outputs(moved)
    reached = problem.objective.margin(state.outputs) < 0
    drawn = problem.inputs + attack.contraction * (moved - problem.inputs)
    state.point = torch.where(ours.column(reached) > 0, drawn, moved)
    return state
