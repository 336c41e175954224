"""A perturbation that all inputs share: what fits one, and the one fitted, itself an attack on any example."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from trustbound.attacks.searching.problem import Problem, State
from trustbound.errors import InputError
from trustbound.record.box import Box
from trustbound.record.cost import Cost
from trustbound.threat import Access, Neighbourhood, Threat
from trustbound.threat.sets.ball import box_limits


class SharedAttack(Protocol):
    """What finds one perturbation for many inputs.

    needs           the least access it works with.
    passes          over the examples it fits to, at most.
    dearest         (forwards, backwards) that one pass asks of an example at most: what a plan is priced with.
    """

    shared: ClassVar[bool]
    needs: ClassVar[Access]

    @property
    def passes(self) -> int:
        """Passes over the examples at most."""

    @property
    def dearest(self) -> tuple[int, int]:
        """Forwards and backwards that one pass asks of an example at most."""

    def fit(self, problem: Problem, ball: Neighbourhood) -> Tensor:
        """One perturbation (*F) for the problem's examples, of those that the ball (1, *F) around nothing allows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedPerturbation:
    """One perturbation v for every input: x becomes clip(x + v), the box's limits applied to each input.

    It is an attack like any other, of one look and no choice: `attack(perturbation, model, inputs, labels, threat)`
    scores it on examples that it has never seen, by the code that scores all attacks.

    Parameters
        method          what fitted it.
        perturbation    v (*F), of size ≤ epsilon in the threat's norm.
        threat          what it was fitted for.
        box             the limits of inputs.
        fitted          how many examples it was fitted to.
        fooled          share of these on which it succeeds, of those that were answered rightly without it.
        forwards, backwards, queries    (B,) int64 what fitting asked about each example.

    >>> v = SharedPerturbation(
    ...     method="by-hand", perturbation=torch.tensor([0.2, -0.2]), threat=Threat.parse("linf:0.2"), box=Box(0.0, 1.0)
    ... )
    >>> v.apply(torch.tensor([[0.5, 0.1]]))
    tensor([[0.7000, 0.0000]])
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.DECISIONS
    steps: ClassVar[int] = 1
    restarts: ClassVar[int] = 1

    method: str
    perturbation: Tensor
    threat: Threat
    box: Box
    fitted: int = 0
    fooled: float = 0.0
    forwards: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    backwards: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    queries: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    cost: Cost = dataclasses.field(default_factory=Cost)
    events: tuple[str, ...] = ()

    def apply(self, inputs: Tensor) -> Tensor:
        """Inputs (B, *F) with the perturbation, inside the box."""
        return shifted(inputs, self.perturbation, *box_limits(self.box, inputs))

    def check(self, threat: Threat, box: Box, shape: tuple[int, ...]) -> None:
        """Refuse inputs of another shape or box, a set that it was not fitted for, and a perturbation outside of it.

        Raises      InputError.
        """
        if tuple(self.perturbation.shape) != shape:
            raise InputError(
                f"a shared perturbation must have the shape of one input, {shape}; this one, of {self.method}, has "
                f"{tuple(self.perturbation.shape)}. Fit one on examples of this shape."
            )
        if threat.perturbations != self.threat.perturbations:
            raise InputError(
                f"a shared perturbation is scored under the set that it was fitted for, {self.threat.perturbations}; "
                f"got {threat.perturbations}. Fit one for that set."
            )
        if box != self.box:
            raise InputError(
                f"a shared perturbation is scored inside the box that it was fitted in, {self.box}; the model's is "
                f"{box}. Fit one on this model's inputs."
            )
        theta = self.perturbation[None]
        ball = around_nothing(threat, box, theta)
        if not bool(ball.contains(theta).all()):
            raise InputError(
                f"a shared perturbation must lie in its set, {threat.perturbations}; this one, of {self.method}, has "
                f"size {float(ball.size(theta)):g}. Scale it, or ask about a larger set."
            )

    def init(self, problem: Problem) -> State:
        """The perturbed inputs."""
        theta = self.apply(problem.inputs)
        return State(theta=theta, done=torch.zeros(len(problem), dtype=torch.bool, device=theta.device))

    def step(self, problem: Problem, state: State) -> State:
        """One look."""
        problem.outputs(state.theta)
        return State(theta=state.theta, done=torch.ones_like(state.done))


def around_nothing(threat: Threat, box: Box, inputs: Tensor) -> Neighbourhood:
    """The perturbations that a threat allows whatever the input, (1, *F): the ball around 0, as wide as the box."""
    return threat.perturbations.around(torch.zeros_like(inputs[:1]), Box(box.low - box.high, box.high - box.low))


def shifted(inputs: Tensor, perturbation: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """clip(x + v) for inputs (B, *F) and v (*F) or (1, *F)."""
    return (inputs + perturbation.to(inputs)).clamp(low, high)
