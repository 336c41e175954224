"""HopSkipJump: along the decision boundary by decisions alone, its normal estimated from random points around."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from trustbound.attacks.refusals import check_seeks, whole
from trustbound.attacks.searching.problem import Problem, State
from trustbound.errors import InputError
from trustbound.threat import Access
from trustbound.threat.neighbourhood import AdditiveNeighbourhood
from trustbound.threat.sets.columns import ColumnNeighbourhood
from trustbound.threat.sets.l2 import unit_length

# Halvings of a bisection and of a jump. Much closer to the boundary rounding decides: successes would not be confirmed.
_HALVINGS = 12
# Numbers drawn together for an example. The same for any batch, so that no neighbour decides what a budget pays for.
_TOGETHER = 2**14


@dataclass(kw_only=True, eq=False)
class JumpState(State):
    """θ stays at the clean input, for `point` (B, *F), on the boundary, may lie outside the set.

    `spread` (B,) float64 is how far around the point decisions are asked for next; `made` counts the steps.
    """

    point: Tensor
    spread: Tensor
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class HopSkipJump:
    """Seek the smallest change by decisions alone: estimate the boundary's normal, jump along it, bisect back.

    A random point of the box that reaches the goal is drawn towards the clean input until it stands on the boundary.
    There the normal is the mean of random directions, each signed by the decision a little way along it.

    Bound       Upper. Each success is a checked witness; its size bounds the distance from above.
    Needs       decisions.  Sets: linf, l2; epsilon is the cap, e.g. l2:inf for none.
    Update      v <- mean of (s_b - mean s) u_b, s_b = 1 where x + delta u_b reaches the goal and -1 elsewhere;
                x <- x + xi v / |v|_2 (l2), x + xi sign(v) (linf), xi = size(x) / sqrt(t), halved until the goal is
                reached; delta <- size(x) theta sqrt(D) (l2), size(x) theta D (linf); theta = gamma D^-1.5 (l2), gamma
                D^-2 (linf), for D features; x <- where bisection between x and the clean input meets the boundary,
                by interpolation (l2) or clipping (linf). Where columns have radii of their own all of it is in units
                of these: directions and jumps are as wide in a column as its radius, and what may not change does not.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example and restart: at most `tries` and `data_tries` forwards for a start, and 24 to bisect it to
                the boundary; in step t `draws` sqrt(t), no more than `max_draws`, and 13 to 24 to jump and to bisect;
                then 1 forward re-check. With the default parameters 17,700 to 19,300; where no start is found the first
                two alone.
    Randomness  the starts and the directions; number k of an example is the same whatever its neighbours.
    Raises      UnsupportedError when the threat is no linf or l2 ball.
    Reference   Chen, Jordan and Wainwright, HopSkipJumpAttack: a query-efficient decision-based attack, 2020
                (1904.02144), Algorithm 2 with the geometric search of the step, and the authors' code.
    Deviations  bisection goes to 2^-12 of the way whatever D, and theta is no smaller: closer to the boundary the
                rounding of float32 decides; no more than `tries` random points and `data_tries` inputs of the data are
                tried, and an example for which none reaches the goal fails and is counted in the events (the code:
                10,000, or an input of the wanted class); a jump is halved twelve times at most, and left out where
                none reaches the goal.

    Parameters
        steps       per restart.
        restarts    random starts.
        tries       random points tried for a start, and
        data_tries  inputs of the data (`donors` of `attack`; an audit has its own examples), the nearest first.
        draws       B_0, random directions of the first step.
        max_draws   random directions of a step at most.
        gamma       how fine the bisection and the estimate are.
        seeks       smallest, or any: an example then stops at its first success inside epsilon.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(4, 2))
    >>> threat = "l2:inf;access=decisions"
    >>> found = attack("hopskipjump", model, torch.rand(3, 4), torch.zeros(3, dtype=torch.int64), threat, steps=3)
    >>> bool(found.size[found.success].isfinite().all())
    True
    """

    needs: ClassVar[Access] = Access.DECISIONS
    infeasible_norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    steps: int = 40
    restarts: int = 1
    tries: int = 1000
    data_tries: int = 64
    draws: int = 100
    max_draws: int = 10_000
    gamma: float = 1.0
    seeks: str = "smallest"

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would be searched."""
        check_seeks(self.seeks)
        for name in ("tries", "draws", "max_draws"):
            whole(name, getattr(self, name))
        whole("data_tries", self.data_tries, least=0)
        if not self.gamma > 0.0:
            raise InputError(f"`gamma` must be a positive number; got {self.gamma!r}")

    @property
    def initial_forwards(self) -> int:
        """Forwards of all starts at most."""
        return self.restarts * (self.tries + self.data_tries + 2 * _HALVINGS)

    @property
    def drawn_per_step(self) -> int:
        """Directions that a step asks about at once, on average over a restart."""
        return math.ceil(sum(map(self._count, range(self.steps))) / self.steps)

    @property
    def forwards_per_step(self) -> int:
        """Forwards of a step at most, on average over a restart."""
        return self.drawn_per_step + 2 * _HALVINGS

    def init(self, problem: Problem) -> JumpState:
        """Points that reach the goal, blended with the clean input, then on the boundary of the norm."""
        ours = _ball(problem)
        point, started = self._started(problem)
        rows = started.nonzero()[:, 0]
        if len(rows):
            some = problem.select(rows)
            point[rows] = _bisected(some, _bisected(some, point[rows], "l2"), ours.norm)
        spread = torch.full_like(ours.scale(), 0.1 * _widest(ours))
        return JumpState(theta=problem.inputs, done=~started, point=point, spread=spread)

    def step(self, problem: Problem, state: JumpState) -> JumpState:
        """Estimate the normal, jump, and come back to the boundary; whoever has finished is asked nothing."""
        going = ~state.done
        if problem.best_so_far.stop_early:
            going &= ~problem.best_so_far.found_at(problem.search_rows)
        rows = going.nonzero()[:, 0]
        if len(rows):
            some, point = problem.select(rows), state.point[rows]
            ours = _ball(some)
            normal = self._normal(some, point, state.spread[rows], state.made)
            direction = normal.sign() if ours.norm == "linf" else unit_length(normal)
            point = _jumped(some, point, direction, ours.size(point) / math.sqrt(state.made + 1))
            state.spread[rows] = ours.size(point) * self._around(some)
            state.point[rows] = _bisected(some, point, ours.norm)
        state.made += 1
        return state

    def _count(self, made: int) -> int:
        """Directions that a step draws."""
        return min(int(self.draws * math.sqrt(made + 1)), self.max_draws)

    def _around(self, problem: Problem) -> float:
        """How far around a point decisions are asked for, as a share of its distance."""
        size, linf = _features(problem), problem.neighbourhood.norm == "linf"
        theta = max(self.gamma / (size**2 if linf else size * math.sqrt(size)), 2.0**-_HALVINGS)
        return theta * (size if linf else math.sqrt(size))

    def _started(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """A uniform point of the box that reaches the goal, else an input of the data, (B, *F); where, (B,) bool."""
        ours, random = _ball(problem), problem.random.stream("hopskipjump-start")
        point, concerned = ours.origin(), problem.objective.concerned()
        rows = concerned.nonzero()[:, 0]
        for draw in range(self.tries):
            if not len(rows):
                break
            shape = tuple(point.shape[1:])
            share = random.select(rows).uniform(shape, restart=problem.restart, draw=draw, dtype=point.dtype)
            tried = _held(problem, (ours.low + (ours.high - ours.low) * share).clamp(ours.low, ours.high), rows)
            with problem.oracle.booking("donors"):
                reached = _reaches(problem, tried, rows)
            point[rows[reached]] = tried[reached]
            rows = rows[~reached]
        rows = self._donated(problem, point, rows)
        started = concerned.index_fill(0, rows, False)
        refused = problem.oracle.passes.refused(problem.search_rows)
        failed = int((concerned & ~started if refused is None else concerned & ~started & ~refused).sum())
        if failed:
            given = "" if problem.donors is None else " and no input of the data that was tried"
            said = f"none of {self.tries} random points{given} reaches the goal for {failed} of {len(problem)} examples"
            problem.oracle.events.append(f"{said}: they were not searched")
        return point, started

    def _donated(self, problem: Problem, point: Tensor, rows: Tensor) -> Tensor:
        """Put the nearest donor that reaches the goal where rows have no point yet; returns those still without."""
        if problem.donors is None or not len(rows):
            return rows
        donors = problem.donors.to(point.device, point.dtype)
        apart = torch.stack([(donors - clean).flatten(1).double().norm(dim=1) for clean in problem.inputs[rows]])
        nearest = apart.argsort(dim=1, stable=True)[:, : self.data_tries]
        for rank in range(nearest.shape[1]):
            tried = _held(problem, donors[nearest[:, rank]], rows)
            reached = _reaches(problem, tried, rows)
            point[rows[reached]] = tried[reached]
            rows, nearest = rows[~reached], nearest[~reached]
            if not len(rows):
                break
        return rows

    def _normal(self, problem: Problem, point: Tensor, spread: Tensor, made: int) -> Tensor:
        """Monte-Carlo estimate of the boundary's normal at points (B, *F), towards the goal.

        The mean decision is the baseline, unless all decisions agree. Sums are taken row by row: a matrix product over
        all examples would round each as its neighbours have it.
        """
        ours, random = _ball(problem), problem.random.stream("hopskipjump")
        linf, centre = ours.norm == "linf", point.unsqueeze(1)
        length = ours.column(spread).unsqueeze(1) * _widths(ours)
        count, together = self._count(made), max(1, _TOGETHER // _features(problem))
        total, signed, balance = torch.zeros_like(point), torch.zeros_like(point), torch.zeros_like(spread)
        for first in range(0, count, together):
            size = min(together, count - first)
            shape, number = (size, *point.shape[1:]), made * self.max_draws + first
            draw = random.uniform if linf else random.normal
            noise = draw(shape, restart=problem.restart, draw=number, dtype=point.dtype)
            noise = unit_length((2.0 * noise - 1.0 if linf else noise).flatten(0, 1)).reshape(noise.shape)
            near = (centre + length * noise).clamp(ours.low, ours.high)
            owner = torch.arange(len(problem), device=point.device).repeat_interleave(size)
            sign = 2.0 * _reaches(problem, near.flatten(0, 1), owner).to(point.dtype).reshape(-1, size) - 1.0
            noise = torch.where(length > 0, (near - centre) / length, 0.0)  # what the box has left of it
            total += noise.sum(dim=1)
            signed += (noise * sign.reshape(-1, size, *(1,) * (point.dim() - 1))).sum(dim=1)
            balance += sign.sum(dim=1)
        baseline = ours.column(balance / count) * total
        return torch.where(ours.column(balance.abs()) == count, baseline, signed - baseline)


def _ball(problem: Problem) -> AdditiveNeighbourhood:
    return cast(AdditiveNeighbourhood, problem.neighbourhood)


def _widths(ours: AdditiveNeighbourhood) -> Tensor | float:
    """How far each input value goes for one unit of size: 1, but for columns with radii of their own."""
    return ours.widths.to(ours.inputs.dtype) if isinstance(ours, ColumnNeighbourhood) else 1.0


def _widest(ours: AdditiveNeighbourhood) -> float:
    """The largest size that makes a difference within the box, of one input value."""
    side = (ours.high - ours.low).expand(ours.inputs.shape[1:])
    wide = torch.as_tensor(_widths(ours), dtype=side.dtype, device=side.device).expand_as(side)
    free = wide > 0
    return float((side[free] / wide[free]).max()) if bool(free.any()) else 0.0


def _held(problem: Problem, points: Tensor, rows: Tensor) -> Tensor:
    """Points for rows, with what may not change as it is."""
    ours = _ball(problem)
    if not isinstance(ours, ColumnNeighbourhood):
        return points
    return torch.where(ours.widths > 0, points, ours.inputs[rows])


def _features(problem: Problem) -> int:
    return problem.inputs[0].numel()


def _reaches(problem: Problem, points: Tensor, owner: Tensor | None = None) -> Tensor:
    """Which points (R, *F) reach the goal, (R,) bool: all that is seen of the model."""
    objective = problem.objective if owner is None else problem.objective.select(owner)
    return objective.reached(problem.outputs(points, owner))


def _drawn(problem: Problem, point: Tensor, share: Tensor, norm: str) -> Tensor:
    """Points at a share (B,) of the way from the clean inputs: of the straight line, or of the largest change."""
    ours = _ball(problem)
    if norm == "linf":
        return ours.project(point.clone(), share * ours.size(point))
    return torch.lerp(problem.inputs, point, ours.column(share))


def _bisected(problem: Problem, point: Tensor, norm: str) -> Tensor:
    """Between the clean input and a point that reaches the goal, the nearest that is found to reach it too."""
    low = torch.zeros(len(problem), dtype=torch.float64, device=point.device)
    high = torch.ones_like(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reached = _reaches(problem, _drawn(problem, point, middle, norm))
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return _drawn(problem, point, high, norm)


def _jumped(problem: Problem, point: Tensor, direction: Tensor, length: Tensor) -> Tensor:
    """The longest jump, of those each half as long as the one before, that reaches the goal; none where none does."""
    ours, moved, rows = _ball(problem), point.clone(), torch.arange(len(point), device=point.device)
    for _ in range(_HALVINGS):
        if not len(rows):
            break
        tried = (point[rows] + ours.column(length[rows]) * _widths(ours) * direction[rows]).clamp(ours.low, ours.high)
        reached = _reaches(problem, tried, rows)
        moved[rows[reached]] = tried[reached]
        rows, length = rows[~reached], length / 2
    return moved
