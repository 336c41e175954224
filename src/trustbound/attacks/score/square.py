"""Square attack: random search over square windows, from scores alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from trustbound.attacks.score.mass_exchange import carried, filled, rearranged, turned
from trustbound.attacks.score.square_windows import grid, layout, patterns, tiled, window_size, windows
from trustbound.attacks.searching.problem import Problem, State
from trustbound.errors import InputError
from trustbound.threat import Access
from trustbound.threat.neighbourhood import AdditiveNeighbourhood
from trustbound.threat.sets.linf import LinfNeighbourhood
from trustbound.threat.sets.transformations import TransformationNeighbourhood

# Step of a run of 10,000 → halvings of the share p, Section 5 of the paper.
_HALVINGS = ((10, 1), (50, 2), (200, 3), (500, 4), (1000, 5), (2000, 6), (4000, 7), (6000, 8), (8000, 9))
# Of pictures (True) and of single rows, where nothing says that neighbours belong together.
_SHARE = {True: 0.8, False: 0.1}
_POWER = {"l2": 2, "l1": 1}
# Changes are stretched to a hair less than the radius, so that rounding does not take them out of the ball.
_INSIDE = 1.0 - 2.0**-20
# Pairs turn by up to π · 2^-u, u uniform up to _FINEST; gains are compared after so many tries of each kind, and
# fade by _FADES a query.
_FINEST, _KNOWN, _FADES = 5.0, 4.0, 0.99


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
    """θ is the best point, `value` (B,) minus its margin; `made` counts the queries.

    Of the two kinds of small l2 and l1 candidates, patterns and pairs: `gain` (B, 2), by how much each raised the
    value so far, `tries` (B, 2), and `kind` (B,) int64 of the candidate at hand, -1 for none.
    """

    value: Tensor
    gain: Tensor
    tries: Tensor
    kind: Tensor
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class Square:
    """Random search: change one square at a time, keep what lowers the margin.

    linf: each channel of a square goes to one end of what is allowed there. l2 and l1: the change inside one square
    is replaced by a pyramid-shaped pattern and takes over the length of another square, which is reset; once the
    squares are down to three by three, some candidates share out anew what two coordinates hold together (l2) or
    carry what one holds to another (l1). Every l2 and l1 candidate has the whole length ε inside the box.
    The size of squares falls with the queries spent, and is one for all examples; each draws its own places.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       scores.  Sets: linf, l2, l1, those with parameters of their own (as one row).
    Update      candidate <- theta with a random square changed; theta <- candidate where the margin to the goal
                fell.
    Shapes      inputs (B, *F) in the box: the last two axes are height and width, those before are channels;
                inputs (B, F), and pictures of a single row or column, are one row, and squares are intervals;
                pictures of a single pixel are a row of channels. labels (B,) int64; logits
                (B, C).
    Cost        per example and restart: `steps` forwards, the start included, then 1 forward re-check.
    Randomness  the start and each candidate; query k of an example draws number k, whatever its neighbours.
    Raises      UnsupportedError when the threat gives decisions only, or is an l0 ball.
    Reference   Andriushchenko et al., Square Attack: a query-efficient black-box adversarial attack via random
                search, 2020 (1912.00049), Algorithms 1 to 3; for l1 Croce and Hein, Mind the box: l1-APGD for sparse
                adversarial attacks on image classifiers, 2021 (2103.01208).
    Deviations  the first squares of pictures hold AutoAttack's 0.8 of the coordinates, not the paper's 0.05 (linf)
                and 0.1 (l2), which left more unbroken on MNIST; a square may also touch the last row and column,
                which the published code never reaches; with a target the margin to it is lowered too, where the
                paper takes the cross-entropy; linf candidates lie at the ends of ball and box together, where the
                paper clips afterwards; parameters θ take any value between their limits, since nothing says that the
                worst lies at an end; l2 and l1 changes are stretched to the length ε inside the box, where the
                published code clips after stretching and so spends less than ε wherever pixels are black or white, or
                projects (l1); an l1 window keeps its mass, where the published code multiplies it by the channels
                before it projects; the papers' windows stay 3 wide to the end, so that nothing moves a single
                coordinate, or length from one channel to another: pairs of coordinates do, as often as they have
                raised the loss more than patterns did.

    Parameters
        steps   queries; the published schedule is stretched to them.
        share   of coordinates in the first squares; None: AutoAttack's 0.8 in pictures, 0.1 in single rows.

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

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if self.share is not None and not 0.0 < self.share <= 1.0:
            raise InputError(f"`share` must lie in (0, 1], or be None; got {self.share!r}")

    def init(self, problem: Problem) -> SquareState:
        """Vertical stripes (linf) or a grid of patterns (l2, l1); evaluated by the first step."""
        theta = _tiles(problem) if problem.neighbourhood.norm in _POWER else _stripes(problem)
        value = torch.full((len(theta),), -torch.inf, dtype=theta.dtype, device=theta.device)
        done = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
        none = torch.zeros(len(theta), 2, dtype=torch.float64, device=theta.device)
        kind = torch.full_like(problem.search_rows, -1)
        return SquareState(theta=theta, done=done, value=value, gain=none, tries=none.clone(), kind=kind)

    def step(self, problem: Problem, state: SquareState) -> SquareState:
        """One query: the start itself, then one candidate after another."""
        candidate = state.theta if state.made == 0 else self._candidate(problem, state)
        value = -problem.objective.margin(problem.outputs(candidate)).to(state.value.dtype)
        better = value > state.value
        _credit(state, torch.where(better, value - state.value, 0.0))
        state.value = torch.where(better, value, state.value)
        state.theta = torch.where(better.reshape(-1, *(1,) * (candidate.dim() - 1)), candidate, state.theta)
        state.made += 1
        return state

    def _candidate(self, problem: Problem, state: SquareState) -> Tensor:
        first = _SHARE[layout(state.theta.shape)[1] > 1] if self.share is None else self.share
        share = share_at(state.made, self.steps, first)
        if problem.neighbourhood.norm in _POWER:
            return _exchanged(problem, state, share, self.steps)
        return _painted(problem, state, share)


def _credit(state: SquareState, gained: Tensor) -> None:
    """Note what the candidate at hand has brought, for the kind that it is of."""
    chosen = torch.stack([state.kind == 0, state.kind == 1], dim=1).to(torch.float64)
    state.tries = _FADES * state.tries + chosen
    state.gain = _FADES * state.gain + chosen * gained.to(torch.float64)[:, None]


def _draw(problem: Problem, count: int, draw: int) -> Tensor:
    """So many uniform numbers for each example, (B, count) float64."""
    random = problem.random.stream("square")
    return random.uniform((count,), restart=problem.restart, draw=draw, dtype=torch.float64)


def _ends(problem: Problem) -> tuple[Tensor, Tensor]:
    """The lowest and highest allowed value of each coordinate, (B, C, H · W)."""
    ours = cast(LinfNeighbourhood | TransformationNeighbourhood, problem.neighbourhood)
    shape = len(problem), layout(ours.floor.shape)[0], -1
    return ours.floor.reshape(shape), ours.ceiling.reshape(shape)


def _stripes(problem: Problem) -> Tensor:
    """Each column of each channel at its highest or lowest values."""
    whole = problem.neighbourhood.origin().shape
    channels, height, width = layout(whole)
    numbers = _draw(problem, channels * width, 0).reshape(-1, channels, 1, width)
    floor, ceiling = _ends(problem)
    numbers = numbers.expand(-1, -1, height, -1).reshape(floor.shape)
    if not problem.neighbourhood.additive:
        return torch.lerp(floor, ceiling, numbers.to(floor.dtype)).reshape(whole)
    return torch.where(numbers < 0.5, ceiling, floor).reshape(whole)


def _painted(problem: Problem, state: SquareState, share: float) -> Tensor:
    """One square of each example, each channel at one end; where that changes nothing, at the other ends."""
    channels, height, width = layout(state.theta.shape)
    numbers = _draw(problem, 2 + channels, state.made)
    place = windows((height, width), window_size(height, width, share), numbers[:, :2])
    place = place[:, None, :].expand(-1, channels, -1)
    theta = state.theta.reshape(len(problem), channels, -1)
    floor, ceiling = (end.gather(2, place) for end in _ends(problem))
    if not problem.neighbourhood.additive:
        square = torch.lerp(floor, ceiling, numbers[:, 2:, None].to(floor.dtype))
        return theta.scatter(2, place, square).reshape(state.theta.shape)
    up = (numbers[:, 2:] < 0.5)[:, :, None]
    square = torch.where(up, ceiling, floor)
    idle = (square == theta.gather(2, place)).all(dim=2).all(dim=1)[:, None, None]
    square = torch.where(up ^ idle, ceiling, floor)
    return theta.scatter(2, place, square).reshape(state.theta.shape)


def _rooms(problem: Problem) -> tuple[Tensor, Tensor]:
    """How far each coordinate may fall and rise inside the box, (B, D) float64."""
    ours = cast(AdditiveNeighbourhood, problem.neighbourhood)
    exact = problem.inputs.to(torch.float64)
    return (exact - ours.low).flatten(1).clamp_(min=0.0), (ours.high - exact).flatten(1).clamp_(min=0.0)


def _stretched(problem: Problem, change: Tensor, rooms: tuple[Tensor, Tensor]) -> Tensor:
    """The point that a change (B, C, H · W) leads to once it has the whole length epsilon inside the box."""
    ours, inputs = problem.neighbourhood, problem.inputs
    step = filled(change.flatten(1), *rooms, ours.scale() * _INSIDE, _POWER[ours.norm])
    return ours.project((inputs + step.reshape(inputs.shape)).to(inputs.dtype))


def _tiles(problem: Problem) -> Tensor:
    """A grid of patterns over the whole picture, each channel of each tile with its own sign."""
    shape = problem.inputs.shape
    channels, (_, rows, columns) = layout(shape)[0], grid(shape)
    numbers = _draw(problem, (channels + 1) * rows * columns, 0).reshape(-1, channels + 1, rows, columns)
    signs = torch.where(numbers[:, 1:] < 0.5, 1.0, -1.0).to(torch.float64)
    change = tiled(shape, signs, numbers[:, 0] < 0.5, _POWER[problem.neighbourhood.norm])
    return _stretched(problem, change, _rooms(problem))


def _exchanged(problem: Problem, state: SquareState, share: float, steps: int) -> Tensor:
    """One window of each example gets a new pattern, another gives up its change; late in the run, or a pair moves."""
    channels, height, width = layout(problem.inputs.shape)
    power = _POWER[problem.neighbourhood.norm]
    numbers = _draw(problem, 10 + channels, state.made)
    size = window_size(height, width, share, odd=True)
    here, there = (windows((height, width), size, numbers[:, first : first + 2]) for first in (0, 2))
    signs = torch.where(numbers[:, 5 : 5 + channels] < 0.5, 1.0, -1.0).to(torch.float64)
    fresh = patterns(size, numbers[:, 4] < 0.5, signs, power)
    change = (state.theta - problem.inputs).to(torch.float64).reshape(len(problem), channels, -1)
    reach, rooms = problem.neighbourhood.scale(), _rooms(problem)
    moved = rearranged(change, here, there, fresh, reach, power)
    state.kind = torch.full_like(state.kind, -1)
    if size == window_size(height, width, 0.0, odd=True) and change[0].numel() > 1:
        choice, first, second, spread, turn = numbers[:, 5 + channels :].unbind(dim=1)
        before = (0.1 if min(height, width) >= 5 else 0.3) + 0.5 * state.made / steps
        # A pair is two coordinates of many: where these are more than an eighth of the queries, patterns pay longer.
        most = min(0.9, steps / (8.0 * change[0].numel()))
        pairs = choice < _preference(state, before).clamp(max=most)
        state.kind = pairs.to(torch.int64)
        if power == 2:
            angle = math.pi * 2.0 ** (-_FINEST * spread) * (2.0 * turn - 1.0)
            apart = turned(change, _pair(change[0].numel(), first, second), angle, reach)
        else:
            apart = carried(change, torch.stack([first, second, turn], dim=1), *rooms, reach)
        moved = torch.where(pairs[:, None, None], apart, moved)
    return _stretched(problem, moved, rooms)


def _preference(state: SquareState, before: float) -> Tensor:
    """The share of pairs among small candidates, (B,): as both kinds have paid lately, `before` until that is known.

    Patterns gain more in pictures at first; where there is no room for one, pairs begin with three tenths.
    """
    paid = state.gain / state.tries.clamp(min=1.0)
    total = paid.sum(dim=1)
    known = (total > 0) & (state.tries >= _KNOWN).all(dim=1)
    shared = paid[:, 1] / total.clamp(min=torch.finfo(total.dtype).tiny)
    return torch.where(known, shared, before).clamp(0.05, 0.9)


def _pair(features: int, first: Tensor, second: Tensor) -> Tensor:
    """Two different coordinates for each example, (B, 2) int64, from two uniform numbers each."""
    one = (first * features).to(torch.int64).clamp(max=features - 1)
    ahead = (second * (features - 1)).to(torch.int64).clamp(max=features - 2)
    return torch.stack([one, (one + 1 + ahead) % features], dim=1)
