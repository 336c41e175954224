"""Decoupled direction and norm (DDN): a step along the gradient, then a norm that adapts to success."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.searching.problem import Problem, State
from trustbound.errors import InputError
from trustbound.threat import Access
from trustbound.threat.neighbourhood import AdditiveNeighbourhood
from trustbound.threat.sets.l2 import unit_length


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """Half a cosine from `first` at step 0 towards `last` at `steps`.

    >>> cosine(0, 10, 1.0, 0.01), cosine(10, 10, 1.0, 0.01)
    (1.0, 0.01)
    """
    return last + (first - last) * (1.0 + math.cos(math.pi * step / steps)) / 2.0


def directed(problem: Problem, gradient: Tensor, draw: int) -> Tensor:
    """The gradient at Euclidean length 1; where it vanished, a random direction of the example's own."""
    unit = unit_length(gradient)
    flat = (unit.flatten(1) == 0).all(dim=1) | ~torch.isfinite(unit.flatten(1)).all(dim=1)
    if not bool(flat.any()):
        return unit
    random = problem.random.stream("vanished")
    drawn = random.normal(tuple(unit.shape[1:]), restart=problem.restart, draw=draw, dtype=unit.dtype)
    return torch.where(flat.reshape(-1, *(1,) * (unit.dim() - 1)), unit_length(drawn), unit)


#: The first part of a search looks for the nearest class, the rest goes straight for the one that it found.
_SEARCHING = 0.3


def climbed(loss: str | None, made: int, steps: int) -> str:
    """What a search for the smallest change climbs at a step: the loss named, or by default two of them in turn.

    The soft margin does not commit to one wrong class and finds the near one where the margin alone may not; near the
    boundary the margin is its exact direction. Both are blind to the scale of the logits.

    >>> climbed(None, 29, 100), climbed(None, 30, 100), climbed("ce", 0, 100)
    ('scaled-soft-margin', 'margin', 'ce')
    """
    if loss is not None:
        return loss
    return "scaled-soft-margin" if made < _SEARCHING * steps else "margin"


def boundary(gap: Tensor, gradient: Tensor, dual: float) -> Tensor:
    """How far a linear model's boundary would be, (B,) float64: margin over the gradient's dual norm."""
    steepness: Tensor = gradient.flatten(1).to(torch.float64).norm(p=dual, dim=1)
    return gap.to(torch.float64) / steepness.clamp(min=torch.finfo(torch.float64).tiny)


@dataclass(kw_only=True, eq=False)
class NormState(State):
    """θ, the length (B,) that its change is given, and the first one, (B,); `made` counts the steps."""

    length: Tensor
    first: Tensor
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class DDN:
    """Minimum-norm attack in l2: step along the gradient, then shrink after a success, grow after a failure.

    Bound       Upper. Each success is a checked witness; its size bounds the distance from above.
    Needs       gradients.  Sets: l2; epsilon is the cap, l2:inf for none.
    Update      delta <- delta + a * gradient / |gradient|, length <- length * (1 -+ gamma),
                delta <- clip(length * delta / |delta|); a falls from the first length to a hundredth of it along
                half a cosine.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example: `steps` forwards and backwards, then 1 forward re-check.
    Randomness  none, but for a direction where the gradient vanishes.
    Raises      UnsupportedError when the threat gives no gradients or is no l2 ball; InputError for `levels`
                below 2 or an `init_norm` that is no positive number.
    Reference   Rony et al., Decoupling direction and norm for efficient gradient-based l2 adversarial attacks
                and defenses, 2019 (1811.09600), Algorithm 1.
    Deviations  `loss` None climbs the scaled soft margin for three tenths of the steps and the margin for the rest
                (the paper: cross-entropy, which leads elsewhere at other scales of the logits, and nowhere where
                the network is sure); `init_norm` None starts each example at its own linear estimate of the
                distance, margin / |gradient|, and steps in units of it (the paper: 1 for all); points are
                rounded to the input lattice only where `levels` is given (the paper: 256); lengths are capped
                by the threat.

    Parameters
        gamma       how much the length changes per step.
        init_norm   the first length and the first step, in input units; None estimates them.
        levels      values that an input coordinate can take, evenly over the box; None for any.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(2, 2))
    >>> found = attack("ddn", model, torch.rand(3, 2), torch.zeros(3, dtype=torch.int64), "l2:inf", steps=20)
    >>> bool(found.size[found.success].isfinite().all())
    True
    """

    seeks: ClassVar[str] = "smallest"
    needs: ClassVar[Access] = Access.GRADIENTS
    restarts: ClassVar[int] = 1

    steps: int = 100
    gamma: float = 0.05
    init_norm: float | None = None
    levels: int | None = None
    loss: str | None = None

    def __post_init__(self) -> None:
        """Refuse a lattice of fewer than two points, and a first length that is none."""
        if self.levels is not None and self.levels < 2:
            raise InputError(f"`levels` must be at least 2, or None for no rounding; got {self.levels}")
        if self.init_norm is not None and not 0.0 < self.init_norm < math.inf:
            raise InputError(f"`init_norm` must be a positive number in input units, or None; got {self.init_norm}")

    def init(self, problem: Problem) -> NormState:
        """Start at the clean input."""
        length = problem.neighbourhood.scale()
        if self.init_norm is not None:
            length = length.clamp(max=self.init_norm)
        return NormState(
            theta=problem.neighbourhood.origin(),
            done=torch.zeros(len(problem), dtype=torch.bool, device=problem.inputs.device),
            length=length,
            first=length,
        )

    def step(self, problem: Problem, state: NormState) -> NormState:
        """Evaluate, turn, rescale."""
        ours, inputs = problem.neighbourhood, problem.inputs
        slope = problem.gradient(state.theta, climbed(self.loss, state.made, self.steps))
        margin = problem.objective.margin(slope.outputs)
        reached = margin < 0
        if state.made == 0 and self.init_norm is None:
            estimate = boundary(margin.clamp(min=0.0), slope.gradient, 2.0)
            state.first = state.length = torch.minimum(state.length, estimate)
        pace = ours.column(state.first * cosine(state.made, self.steps, 1.0, 0.01))
        change = state.theta - inputs + pace * directed(problem, slope.gradient, state.made)
        grown = state.length * torch.where(reached, 1.0 - self.gamma, 1.0 + self.gamma)
        state.length = torch.minimum(grown, ours.scale())
        moved = inputs + unit_length(change) * ours.column(state.length)
        if self.levels is not None:
            moved = _rounded(problem, moved, self.levels)
        state.theta = ours.project(moved)
        state.made += 1
        return state


def _rounded(problem: Problem, theta: Tensor, levels: int) -> Tensor:
    """The nearest of `levels` evenly spaced values of the box."""
    ours = problem.neighbourhood
    if not isinstance(ours, AdditiveNeighbourhood):
        return theta
    step = (ours.high - ours.low) / (levels - 1)
    return ours.low + ((theta - ours.low) / step).round() * step
