"""Decoupled direction and norm: the gradient turns the change, success alone sets its length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.problem import Problem, State
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


@dataclass(kw_only=True, eq=False)
class NormState(State):
    """θ and the length (B,) that its change is given; `made` counts the steps."""

    length: Tensor
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class DDN:
    """Seek the smallest l2 change: step along the gradient, then shrink after a success, grow after a failure.

    Bound       Upper. Each success is a checked witness; its size bounds the distance from above.
    Needs       gradients.  Sets: l2; epsilon is the cap, l2:inf for none.
    Update      delta <- delta + a * gradient / |gradient|, length <- length * (1 -+ gamma),
                delta <- clip(length * delta / |delta|); a falls from 1 to 0.01 along half a cosine.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example: `steps` forwards and backwards, then 1 forward re-check.
    Randomness  none, but for a direction where the gradient vanishes.
    Raises      UnsupportedError when the threat gives no gradients or is no l2 ball; InputError for `levels`
                below 2.
    Reference   Rony et al., Decoupling direction and norm for efficient gradient-based l2 adversarial attacks
                and defenses, 2019 (1811.09600), Algorithm 1.
    Deviations  climbs the soft margin: the direction of the paper's cross-entropy, without its saturation;
                points are rounded to the input lattice only where `levels` is given (the paper: 256); lengths
                are capped by the threat.

    Parameters
        gamma       how much the length changes per step.
        init_norm   the first length, in input units.
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
    init_norm: float = 1.0
    levels: int | None = None
    loss: str = "soft-margin"

    def __post_init__(self) -> None:
        """Refuse a lattice of fewer than two points."""
        if self.levels is not None and self.levels < 2:
            raise InputError(f"`levels` must be at least 2, or None for no rounding; got {self.levels}")

    def init(self, problem: Problem) -> NormState:
        """Start at the clean input."""
        return NormState(
            theta=problem.neighbourhood.origin(),
            done=torch.zeros(len(problem), dtype=torch.bool, device=problem.inputs.device),
            length=problem.neighbourhood.scale().clamp(max=self.init_norm),
        )

    def step(self, problem: Problem, state: NormState) -> NormState:
        """Evaluate, turn, rescale."""
        ours, inputs = problem.neighbourhood, problem.inputs
        slope = problem.gradient(state.theta, self.loss)
        reached = problem.objective.reached(slope.outputs)
        pace = cosine(state.made, self.steps, 1.0, 0.01)
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
