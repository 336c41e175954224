"""Projected gradient ascent on the probability margin: short runs from varied starts, towards varied classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustbound.attacks.gradient.nearest_classes import DUAL, by_slope
from trustbound.attacks.gradient.places import Places, best_places
from trustbound.attacks.model_access.smooth_relu import SmoothBackward
from trustbound.attacks.refusals import whole
from trustbound.attacks.searching.problem import Batched, Problem, State
from trustbound.errors import InputError
from trustbound.metrics.losses import Loss
from trustbound.threat import Access
from trustbound.threat.sets.columns import ColumnNeighbourhood


@dataclass(frozen=True, kw_only=True)
class Run:
    """One restart of a margin search.

    Parameters
        target  0 climbs away from the label, r ≥ 1 towards the r-th nearest class.
        start   "clean", "random" (uniform in the set), "blocks" (a random corner for each 4 × 4 cell), "placed" (a
                patch where it does most, the next run of the kind where it does next most; random in other sets),
                or "closest" (the best point of the runs before: the exact polish).
        coarse  average the gradient over 4 × 4, then 2 × 2 cells in the first 30 % of the steps.
    """

    target: int = 0
    start: str = "clean"
    coarse: bool = False

    def __post_init__(self) -> None:
        """Refuse a start that there is not: it would pass for a random one."""
        whole("target", self.target, least=0)
        if self.start not in STARTS:
            raise InputError(f"the start of a run must be one of {', '.join(STARTS)}; got {self.start!r}")


STARTS = ("clean", "random", "blocks", "placed", "closest")

#: Six runs of different kinds, then the polish: what is left after an easy search falls to one of these.
VARIED = (
    Run(target=1, start="random", coarse=True),
    Run(start="random", coarse=True),
    Run(target=2, start="random", coarse=True),
    Run(start="blocks"),
    Run(target=3, start="random", coarse=True),
    Run(target=1, start="random"),
    Run(start="closest"),
)


@dataclass(kw_only=True, eq=False)
class MarginMemory(Batched):
    """What all runs share: classes by rank (B, k), empty where no run has a target, and the places of those placed."""

    order: Tensor
    placed: Places


@dataclass(kw_only=True, eq=False)
class MarginState(State):
    """The current point, the count of steps made, and the largest step (B,)."""

    reach: Tensor
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class MarginPGD:
    """Short projected ascents on the probability margin, with steps that decay linearly to nothing.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       gradients.  Sets: any.
    Update      theta <- project(theta + epsilon (1 - t / steps) steepest(gradient)); the polish starts from the
                closest point of all runs with steps from epsilon / 5, on the logit margin.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example and run: `steps` forwards and backwards; 1 forward more, and `candidates` forwards
                and backwards, once, where a run has a target; at most `places` forwards, and 1 and a backward, once,
                where a run of a patch is placed; then 1 forward re-check.
    Randomness  starts, where the coarse cells lie, and which of two places alike is tried first.
    Raises      UnsupportedError when the threat gives no gradients.
    Reference   the loss: Liang et al., Exploring efficient robust evaluation with the probability margin
                loss, 2022; targets: MALT (2407.02240); schedule and cascade: measured, see
                `benchmarks/README.md`.
    Deviations  an own combination; targeted runs climb the logit margin.

    >>> MarginPGD(steps=10, runs=(Run(),)).restarts
    1
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.GRADIENTS
    keeps_closest: ClassVar[bool] = True

    steps: int = 20
    runs: tuple[Run, ...] = VARIED
    candidates: int = 4
    loss: str | Loss = "probability-margin"
    places: int = 64

    def __post_init__(self) -> None:
        """Refuse runs that are none."""
        whole("places", self.places, least=1)
        if not self.runs or not all(isinstance(run, Run) for run in self.runs):
            raise InputError(f"`runs` must be one Run or more; got {self.runs!r}")

    @property
    def restarts(self) -> int:
        """One for each run."""
        return len(self.runs)

    @property
    def initial_forwards(self) -> int:
        """Forwards that `prepare` asks for at most."""
        wanted = max(run.target for run in self.runs)
        placed = 1 + self.places if any(run.start == "placed" for run in self.runs) else 0
        return placed + (1 + max(self.candidates, wanted) if wanted else 0)

    def prepare(self, problem: Problem) -> MarginMemory:
        """Order the classes for the runs that have a target, and the places for those that are placed."""
        wanted = max(run.target for run in self.runs)
        order = problem.search_rows.new_zeros(len(problem), 0)
        if wanted:
            outputs = problem.outputs(problem.neighbourhood.origin())
            dual = DUAL.get(problem.neighbourhood.norm, 2.0)
            order = by_slope(problem, outputs, max(self.candidates, wanted), dual)
        placed = best_places(problem, sum(run.start == "placed" for run in self.runs), self.places)
        return MarginMemory(order=order, placed=placed)

    def init(self, problem: Problem) -> MarginState:
        """The start of this restart's run."""
        ours, run = problem.neighbourhood, self.runs[problem.restart]
        if run.start == "closest":
            theta = problem.closest()
        elif run.start == "blocks":
            theta = ours.project(_corner(problem))
        elif run.start == "placed" and (begun := self._placed(problem)) is not None:
            theta = ours.project(begun)
        else:
            theta = ours.origin() if run.start == "clean" else ours.start(problem.random, problem.restart)
        reach = ours.scale() * (0.2 if run.start == "closest" else 1.0)
        return MarginState(theta=theta, done=torch.zeros_like(problem.search_rows, dtype=torch.bool), reach=reach)

    def _placed(self, problem: Problem) -> Tensor | None:
        """Where this run's square lies, and what it shows; None in a set without places."""
        assert isinstance(problem.memory, MarginMemory)
        rank = sum(run.start == "placed" for run in self.runs[: problem.restart])
        return problem.memory.placed.start(problem, rank)

    def step(self, problem: Problem, state: MarginState) -> MarginState:
        """One step with the plain gradient."""
        return self.advance(problem, state, None)

    def advance(self, problem: Problem, state: MarginState, smooth: SmoothBackward | None) -> MarginState:
        """One step, the polish always with the plain gradient."""
        run = self.runs[problem.restart]
        polish = run.start == "closest"
        memory = problem.memory
        objective, loss = None, "margin" if polish else self.loss
        if run.target and isinstance(memory, MarginMemory) and memory.order.shape[1]:
            rank = min(run.target, memory.order.shape[1]) - 1
            objective, loss = problem.objective.towards(memory.order[:, rank]), "margin"
        slope = problem.gradient(state.theta, loss, objective=objective, smooth=None if polish else smooth)
        gradient = slope.gradient
        if run.coarse and (cell := _cell(state.made, self.steps)) > 1:
            gradient = _averaged(gradient, cell, offset=(7 * problem.restart + 3 * state.made) % cell)
        direction = problem.neighbourhood.steepest(state.theta, gradient)
        size = problem.neighbourhood.column(state.reach * (1.0 - state.made / self.steps))
        state.theta = problem.neighbourhood.project(state.theta.addcmul_(direction, size))
        state.made += 1
        return state


def _cell(step: int, steps: int) -> int:
    """Width of the cells at a step: 4, then 2, each for 15 % of the run, then single pixels."""
    return 4 if step < 0.15 * steps else 2 if step < 0.3 * steps else 1


def _averaged(gradient: Tensor, cell: int, offset: int) -> Tensor:
    """The gradient's mean over square cells of a shifted grid; inputs that are no pictures keep theirs."""
    if gradient.dim() != 4 or min(gradient.shape[2:]) < 2 * cell:
        return gradient
    height, width = gradient.shape[2:]
    below, right = -(height + offset) % cell, -(width + offset) % cell
    padded = nn.functional.pad(gradient, (offset, right, offset, below))
    means = nn.functional.avg_pool2d(padded, cell)
    spread = means.repeat_interleave(cell, dim=2).repeat_interleave(cell, dim=3)
    return spread[:, :, offset : offset + height, offset : offset + width].contiguous()


def _corner(problem: Problem) -> Tensor:
    """±ε, one sign for each 4 × 4 cell and channel (for each coordinate of θ where it is no picture)."""
    ours = problem.neighbourhood
    origin = ours.origin()
    shape = tuple(origin.shape[1:])
    picture = len(shape) == 3 and min(shape[1:]) >= 4
    cells = (shape[0], -(-shape[1] // 4), -(-shape[2] // 4)) if picture else shape
    signs = problem.random.integers(2, cells, restart=problem.restart, draw=5).to(origin.dtype) * 2 - 1
    if picture:
        signs = signs.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        signs = signs[:, :, : shape[1], : shape[2]]
    own = not ours.additive or isinstance(ours, ColumnNeighbourhood)
    direction = ours.steepest(origin, signs) if own else signs
    return origin + direction * ours.column(ours.scale())
