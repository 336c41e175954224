"""Search without a direction, for sets of few parameters: independent draws, or every point of a grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.refusals import whole
from trustbound.attacks.searching.problem import Batched, Problem, State
from trustbound.errors import InputError
from trustbound.threat import Access


@dataclass(kw_only=True, eq=False)
class SampleState(State):
    """θ is the point tried last; `made` counts them."""

    made: int = 0


@dataclass(frozen=True, kw_only=True)
class RandomSampling:
    """Draw points of the set uniformly and independently: one of them may reach the goal.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       decisions.  Sets: those with parameters of their own.
    Update      theta <- a new uniform point of the set.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example and restart: `steps` forwards, then 1 forward re-check.
    Randomness  every point; number k of an example is the same whatever its neighbours.
    Raises      UnsupportedError when the threat is a norm ball: almost nothing of one is found by chance.
    Reference   Engstrom, Tran, Tsipras, Schmidt and Madry, Exploring the landscape of spatial robustness, 2019
                (1712.02779), "worst-of-k".
    Deviations  none.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(4, 2))
    >>> found = attack("random", model, torch.rand(3, 4), torch.zeros(3, dtype=torch.int64), "brightness:0.5", steps=9)
    >>> int(found.forwards.max()) <= 11
    True
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.DECISIONS

    steps: int = 10
    restarts: int = 1

    def init(self, problem: Problem) -> SampleState:
        """Nothing tried yet."""
        return _begun(problem)

    def step(self, problem: Problem, state: SampleState) -> SampleState:
        """One draw."""
        number = problem.restart * self.steps + state.made
        return _tried(problem, state, problem.neighbourhood.start(problem.random.stream("random"), number))


@dataclass(kw_only=True, eq=False)
class GridMemory(Batched):
    """The points of the grid, those of largest size first, (B, n, P) in θ's own units."""

    points: Tensor


@dataclass(frozen=True, kw_only=True)
class GridSearch:
    """Try every point of a regular grid over the set's parameters, the limits included, the largest changes first.

    Bound       Upper. Each success is a checked witness; a failure proves nothing: between the points lie others.
    Needs       decisions.  Sets: those with parameters of their own.
    Update      theta <- the next point of the grid.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example: at most `steps` forwards, then 1 forward re-check.
    Randomness  none.
    Raises      UnsupportedError when the threat is a norm ball; InputError where `values` does not hold one number for
                each parameter, or makes more points than `steps`.
    Reference   Engstrom, Tran, Tsipras, Schmidt and Madry, Exploring the landscape of spatial robustness, 2019
                (1712.02779): 31 angles and 5 shifts along each axis, `values=(31, 5, 5)`.
    Deviations  without `values` all parameters get as many values as `steps` can hold.

    Parameters
        steps   points at most.
        values  how many values of each parameter, in the order of the threat's text.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(4, 2))
    >>> found = attack("grid", model, torch.rand(3, 4), torch.zeros(3, dtype=torch.int64), "brightness:0.5", steps=9)
    >>> int(found.forwards.max()) <= 11
    True
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.DECISIONS
    restarts: ClassVar[int] = 1

    steps: int = 775
    values: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no list of counts."""
        if self.values is None:
            return
        if isinstance(self.values, str) or not isinstance(self.values, Sequence):
            raise InputError(
                f"`values` must be one whole number for each parameter of the set, e.g. (31, 5, 5); got {self.values!r}"
            )
        object.__setattr__(self, "values", tuple(whole("values", value) for value in self.values))

    def prepare(self, problem: Problem) -> GridMemory:
        """Lay the grid out."""
        ours = problem.neighbourhood
        most = ours.project(torch.full_like(ours.origin(), torch.inf))
        counts = self._counts(most.shape[1])
        axes = [torch.linspace(-1.0, 1.0, count) if count > 1 else torch.zeros(1) for count in counts]
        shares = torch.tensor(list(itertools.product(*(axis.tolist() for axis in axes))), dtype=most.dtype)
        largest = shares.abs().amax(dim=1).argsort(descending=True, stable=True)
        return GridMemory(points=shares[largest].to(most.device) * most[:, None, :])

    def init(self, problem: Problem) -> SampleState:
        """Nothing tried yet."""
        return _begun(problem)

    def step(self, problem: Problem, state: SampleState) -> SampleState:
        """One point; after the last one the example is done."""
        assert isinstance(problem.memory, GridMemory)
        points = problem.memory.points
        state = _tried(problem, state, points[:, state.made].clone())
        state.done = torch.full_like(state.done, state.made >= points.shape[1])
        return state

    def _counts(self, parameters: int) -> tuple[int, ...]:
        if self.values is None:
            return (max(1, math.floor(self.steps ** (1.0 / parameters) + 1e-9)),) * parameters
        if len(self.values) != parameters:
            raise InputError(f"`values` must hold one number for each of {parameters} parameters; got {self.values}")
        made = math.prod(self.values)
        if made > self.steps:
            raise InputError(f"`values` must make at most `steps` points, {self.steps}; {self.values} make {made}")
        return self.values


def _begun(problem: Problem) -> SampleState:
    done = torch.zeros(len(problem), dtype=torch.bool, device=problem.search_rows.device)
    return SampleState(theta=problem.neighbourhood.origin(), done=done)


def _tried(problem: Problem, state: SampleState, theta: Tensor) -> SampleState:
    problem.outputs(theta)
    state.theta = theta
    state.made += 1
    return state
