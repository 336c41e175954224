"""Projected gradient descent: FGSM, BIM and PGD are one idea with different parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.searching.problem import Problem, State
from trustbound.metrics.losses import Loss
from trustbound.threat import Access


@dataclass(kw_only=True, eq=False)
class AscentState(State):
    """The current point and each example's step size, absolute, as a column (B, 1, …) against it."""

    step_size: Tensor


def begin(problem: Problem, theta: Tensor, step_size: float | Tensor) -> AscentState:
    """The state at a starting point θ."""
    sizes = torch.as_tensor(step_size, dtype=torch.float64, device=theta.device).expand(len(theta))
    return AscentState(
        theta=theta,
        done=torch.zeros(len(theta), dtype=torch.bool, device=theta.device),
        step_size=problem.neighbourhood.column(sizes),
    )


def ascend(problem: Problem, state: AscentState, loss: str | Loss) -> AscentState:
    """θ ← project(θ + step_size · steepest(gradient)), in place."""
    slope = problem.gradient(state.theta, loss)
    direction = problem.neighbourhood.steepest(state.theta, slope.gradient)
    moved = state.theta.addcmul_(direction, state.step_size)
    state.theta = problem.neighbourhood.project(moved)
    return state


@dataclass(frozen=True, kw_only=True)
class FGSM:
    """One step of the full radius along the set's steepest direction.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       gradients.  Sets: linf, l2, those with parameters of their own.
    Update      theta <- project(inputs + epsilon * steepest(gradient)).
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example: 1 forward and backward, then 1 forward re-check.
    Randomness  none.
    Raises      UnsupportedError when the threat gives no gradients.
    Reference   Goodfellow, Shlens and Szegedy, Explaining and harnessing adversarial examples, 2015
                (1412.6572).
    Deviations  norms other than l∞ use their own steepest direction.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(2, 2))
    >>> attack("fgsm", model, torch.rand(3, 2), torch.zeros(3, dtype=torch.int64), "linf:0.1").success.shape
    torch.Size([3])
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.GRADIENTS

    loss: str | Loss = "ce"
    steps: ClassVar[int] = 1
    restarts: ClassVar[int] = 1

    def init(self, problem: Problem) -> AscentState:
        """Start at the clean input."""
        return begin(problem, problem.neighbourhood.origin(), problem.neighbourhood.scale())

    def step(self, problem: Problem, state: AscentState) -> AscentState:
        """The one step."""
        return ascend(problem, state, self.loss)


@dataclass(frozen=True, kw_only=True)
class BIM:
    """FGSM repeated with small steps from the clean input.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       gradients.  Sets: linf, l2, those with parameters of their own.
    Update      theta <- project(theta + step_size * steepest(gradient)).
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example: `steps` forwards and backwards, then 1 forward re-check.
    Randomness  none.
    Raises      UnsupportedError when the threat gives no gradients.
    Reference   Kurakin, Goodfellow and Bengio, Adversarial examples in the physical world, 2017 (1607.02533).
    Deviations  `step_size` None means 2 · epsilon / steps, in place of one grey level and min(ε + 4, 1.25 ε)
                steps, which hold for 8-bit pictures and l∞ only.

    >>> BIM(steps=10).steps
    10
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.GRADIENTS

    steps: int = 10
    step_size: float | None = None
    loss: str | Loss = "ce"
    restarts: ClassVar[int] = 1

    def init(self, problem: Problem) -> AscentState:
        """Start at the clean input."""
        size = 2.0 * problem.neighbourhood.scale() / self.steps if self.step_size is None else self.step_size
        return begin(problem, problem.neighbourhood.origin(), size)

    def step(self, problem: Problem, state: AscentState) -> AscentState:
        """One small step."""
        return ascend(problem, state, self.loss)


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent: climb the loss along the set's steepest direction, staying in the threat set.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       gradients.  Sets: any.
    Update      theta <- project(theta + step_size * steepest(gradient)).
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example and restart: `steps` forwards and backwards, then 1 forward re-check.
    Randomness  the start point only.
    Raises      UnsupportedError when the threat gives no gradients.
    Reference   Madry et al., Towards deep learning models resistant to adversarial attacks, 2018
                (1706.06083).
    Deviations  `step_size` None means 2.5 · epsilon / steps, the paper's own rule of its l2 experiments, and
                for l0 a move across the whole box, the first restart from the clean input;
                with `random_start=False` the first restart starts at the clean input.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(2, 2))
    >>> found = attack("pgd", model, torch.rand(3, 2), torch.zeros(3, dtype=torch.int64), "l2:0.5", steps=5)
    >>> bool((found.size <= 0.5).all())
    True
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.GRADIENTS

    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    loss: str | Loss = "ce"
    random_start: bool = True

    def init(self, problem: Problem) -> AscentState:
        """A random point of the set, or the clean input."""
        ours = problem.neighbourhood
        clean = problem.restart == 0 and (not self.random_start or ours.discrete)
        theta = ours.origin() if clean else ours.start(problem.random, problem.restart)
        # For l0 whole moves: the projection drops a coordinate that moved less than those already changed.
        whole = 1.0 if ours.discrete else 2.5 / self.steps
        size = whole * ours.scale() if self.step_size is None else self.step_size
        return begin(problem, theta, size)

    def step(self, problem: Problem, state: AscentState) -> AscentState:
        """One projected step."""
        return ascend(problem, state, self.loss)
