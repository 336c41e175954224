"""Random search with squares: scores only, no gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from trustbound.attacks.methods.patches import grid, layout, patterns, rearranged, tiled, window_size, windows
from trustbound.attacks.problem import Problem, State
from trustbound.threat import Access
from trustbound.threat.sets.l2 import unit_length
from trustbound.threat.sets.linf import LinfNeighbourhood

# Step of a run of 10,000 → halvings of the share p, Section 5 of the paper.
_HALVINGS = ((10, 1), (50, 2), (200, 3), (500, 4), (1000, 5), (2000, 6), (4000, 7), (6000, 8), (8000, 9))
_SHARE = {"linf": 0.05, "l2": 0.1}


def share_at(step: int, steps: int, first: float) -> float:
    """The share p of coordinates that a candidate changes, piecewise constant, scaled to `steps`.

    >>> [share_at(step, 10_000, 0.8) for step in (0, 11, 51, 9999)]
    [0.8, 0.4, 0.2, 0.0015625]
    """
    place = int(step / steps * 10_000)
    passed = [halvings for after, halvings in _HALVINGS if place > after]
    return float(first * 0.5 ** (passed[-1] if passed else 0))


@dataclass(kw_only=True, eq=False)
class SquareState(State):
    """θ is the best point, `value` (B,) minus its margin; `made` counts the queries."""

    value: Tensor
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class Square:
    """Random search: change one square at a time, keep what lowers the margin.

    linf: each channel of a square goes to one end of what is allowed there. l2: the change inside one square
    is replaced by a pyramid-shaped pattern and takes over the length of another square, which is reset.
    The size of squares falls with the queries spent, and is one for all examples; each draws its own places.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       scores.  Sets: linf, l2.
    Update      candidate <- theta with a random square changed; theta <- candidate where the margin to the goal
                fell.
    Shapes      inputs (B, *F) in the box: the last two axes are height and width, those before are channels;
                inputs (B, F) are one row of F columns, and squares are intervals. labels (B,) int64; logits
                (B, C).
    Cost        per example and restart: `steps` forwards, the start included, then 1 forward re-check.
    Randomness  the start and each candidate; query k of an example draws number k, whatever its neighbours.
    Raises      UnsupportedError when the threat gives decisions only, or is no linf or l2 ball.
    Reference   Andriushchenko et al., Square Attack: a query-efficient black-box adversarial attack via random
                search, 2020 (1912.00049), Algorithms 1 to 3.
    Deviations  a square may also touch the last row and column, which the published code never reaches; with
                a target the margin to it is lowered too, where the paper takes the cross-entropy; linf
                candidates lie at the ends of ball and box together, where the paper clips afterwards.

    Parameters
        steps   queries; the published schedule is stretched to them.
        share   of coordinates in the first squares; None: the paper's 0.05 for linf and 0.1 for l2.
                AutoAttack takes 0.8.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(4, 2))
    >>> threat = "linf:0.5;access=scores"
    >>> found = attack("square", model, torch.rand(3, 4), torch.zeros(3, dtype=torch.int64), threat, steps=9)
    >>> int(found.queries.max()) <= 11
    True
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.SCORES

    steps: int = 5000
    restarts: int = 1
    share: float | None = None

    def init(self, problem: Problem) -> SquareState:
        """Vertical stripes (linf) or a grid of patterns (l2); evaluated by the first step."""
        theta = _stripes(problem) if problem.neighbourhood.norm == "linf" else _tiles(problem)
        value = torch.full((len(theta),), -torch.inf, dtype=theta.dtype, device=theta.device)
        done = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
        return SquareState(theta=theta, done=done, value=value)

    def step(self, problem: Problem, state: SquareState) -> SquareState:
        """One query: the start itself, then one candidate after another."""
        candidate = state.theta if state.made == 0 else self._candidate(problem, state)
        value = -problem.objective.margin(problem.outputs(candidate)).to(state.value.dtype)
        better = value > state.value
        state.value = torch.where(better, value, state.value)
        state.theta = torch.where(better.reshape(-1, *(1,) * (candidate.dim() - 1)), candidate, state.theta)
        state.made += 1
        return state

    def _candidate(self, problem: Problem, state: SquareState) -> Tensor:
        norm = problem.neighbourhood.norm
        share = share_at(state.made, self.steps, _SHARE[norm] if self.share is None else self.share)
        return (_painted if norm == "linf" else _exchanged)(problem, state, share)


def _draw(problem: Problem, count: int, draw: int) -> Tensor:
    """So many uniform numbers for each example, (B, count) float64."""
    random = problem.random.stream("square")
    return random.uniform((count,), restart=problem.restart, draw=draw, dtype=torch.float64)


def _ends(problem: Problem) -> tuple[Tensor, Tensor]:
    """The lowest and highest allowed value of each coordinate, (B, C, H · W)."""
    ours = cast(LinfNeighbourhood, problem.neighbourhood)
    channels = layout(problem.inputs.shape)[0]
    shape = len(problem), channels, -1
    return ours.floor.reshape(shape), ours.ceiling.reshape(shape)


def _stripes(problem: Problem) -> Tensor:
    """Each column of each channel at its highest or lowest values."""
    channels, height, width = layout(problem.inputs.shape)
    up = _draw(problem, channels * width, 0).reshape(-1, channels, 1, width) < 0.5
    floor, ceiling = _ends(problem)
    chosen = up.expand(-1, -1, height, -1).reshape(floor.shape)
    return torch.where(chosen, ceiling, floor).reshape(problem.inputs.shape)


def _painted(problem: Problem, state: SquareState, share: float) -> Tensor:
    """One square of each example, each channel at one end; where that changes nothing, at the other ends."""
    channels, height, width = layout(problem.inputs.shape)
    numbers = _draw(problem, 2 + channels, state.made)
    place = windows((height, width), window_size(height, width, share), numbers[:, :2])
    place = place[:, None, :].expand(-1, channels, -1)
    theta = state.theta.reshape(len(problem), channels, -1)
    floor, ceiling = (end.gather(2, place) for end in _ends(problem))
    up = (numbers[:, 2:] < 0.5)[:, :, None]
    square = torch.where(up, ceiling, floor)
    idle = (square == theta.gather(2, place)).all(dim=2).all(dim=1)[:, None, None]
    square = torch.where(up ^ idle, ceiling, floor)
    return theta.scatter(2, place, square).reshape(problem.inputs.shape)


def _stretched(problem: Problem, change: Tensor) -> Tensor:
    """The point at distance epsilon along a change (B, C, H · W), clipped to the box."""
    ours, inputs = problem.neighbourhood, problem.inputs
    step = unit_length(change).reshape(inputs.shape).to(inputs.dtype)
    return ours.project(torch.addcmul(inputs, step, ours.column(ours.scale())))


def _tiles(problem: Problem) -> Tensor:
    """A grid of patterns over the whole picture, each channel of each tile with its own sign."""
    shape = problem.inputs.shape
    channels, (_, rows, columns) = layout(shape)[0], grid(shape)
    numbers = _draw(problem, (channels + 1) * rows * columns, 0).reshape(-1, channels + 1, rows, columns)
    signs = torch.where(numbers[:, 1:] < 0.5, 1.0, -1.0).to(torch.float64)
    return _stretched(problem, tiled(shape, signs, numbers[:, 0] < 0.5))


def _exchanged(problem: Problem, state: SquareState, share: float) -> Tensor:
    """One window of each example gets a new pattern, another gives up its change."""
    channels, height, width = layout(problem.inputs.shape)
    numbers = _draw(problem, 5 + channels, state.made)
    size = window_size(height, width, share, odd=True)
    here, there = (windows((height, width), size, numbers[:, first : first + 2]) for first in (0, 2))
    signs = torch.where(numbers[:, 5:] < 0.5, 1.0, -1.0).to(torch.float64)
    fresh = patterns(size, numbers[:, 4] < 0.5, signs)
    change = (state.theta - problem.inputs).to(torch.float64).reshape(len(problem), channels, -1)
    reach = problem.neighbourhood.scale()
    return _stretched(problem, rearranged(change, here, there, fresh, reach))
