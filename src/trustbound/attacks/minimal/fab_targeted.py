"""Targeted FAB: one class after another, in the order of their logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from trustbound.attacks.gradient.apgd_targeted import TargetMemory
from trustbound.attacks.gradient.nearest_classes import by_gap
from trustbound.attacks.minimal.fab import FAB, WalkState, closing, started, walked
from trustbound.attacks.refusals import check_seeks, whole
from trustbound.attacks.searching.problem import Problem
from trustbound.threat import Access


@dataclass(frozen=True, kw_only=True)
class TargetedFAB:
    """FAB along the boundary with one class at a time, `targets` classes, those of largest logit first.

    A step needs the gradient of one difference only, whatever the number of classes.

    Bound       Upper. Each success is a checked witness; its size bounds the distance from above.
    Needs       gradients.  Sets: linf, l2, l1; epsilon is the cap, e.g. l2:inf for none.
    Update      that of `fab`, on the hyperplane of the restart's class.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example: once 1 forward; for each target and start `steps` backwards and twice as many forwards;
                then 1 forward re-check. Classes beyond C - 1 cost nothing.
    Randomness  the starts of all turns but the first.
    Raises      UnsupportedError when the threat gives no gradients, or is no linf, l2 or l1 ball.
    Reference   Croce and Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack, 2020
                (1907.02044), and Reliable evaluation of adversarial robustness with an ensemble of diverse
                parameter-free attacks, 2020 (2003.01690), section 4, for the targets.
    Deviations  those of `fab`.

    Parameters
        steps       for each target and start.
        targets     how many classes are tried at most, by their logit at the clean input.
        starts      for each target; the first is the clean input. All targets have a first before any has a second.
        lean, overshoot, contraction, seeks    those of `fab`.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(2, 3))
    >>> found = attack("fab-t", model, torch.rand(4, 2), torch.zeros(4, dtype=torch.int64), "l2:inf", steps=5)
    >>> int(found.cost.backwards) <= 4 * 2 * 5
    True
    """

    needs: ClassVar[Access] = Access.GRADIENTS
    infeasible_norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    initial_forwards: ClassVar[int] = 1
    forwards_per_step: ClassVar[int] = 2

    steps: int = 100
    targets: int = 9
    starts: int = 1
    lean: float = 0.1
    overshoot: float = 1.05
    contraction: float = 0.9
    seeks: str = "smallest"
    walk: FAB = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """The numbers of one step."""
        check_seeks(self.seeks)
        whole("targets", self.targets)
        whole("starts", self.starts)
        walk = FAB(lean=self.lean, overshoot=self.overshoot, contraction=self.contraction)
        object.__setattr__(self, "walk", walk)

    @property
    def restarts(self) -> int:
        """One for each target and start."""
        return self.targets * self.starts

    def prepare(self, problem: Problem) -> TargetMemory:
        """Order the classes of each example."""
        named = problem.objective.targets
        if named is not None:
            return TargetMemory(order=named.unsqueeze(1))
        order = by_gap(problem.outputs(problem.neighbourhood.origin()), problem.objective.labels)
        return TargetMemory(order=order[:, : self.targets])

    def init(self, problem: Problem) -> WalkState:
        """A fresh start; finished at once where the classes have run out."""
        turn, place = divmod(problem.restart, self.targets)
        state = started(problem, turn)
        if place >= self._order(problem).shape[1]:
            state.done = torch.ones_like(state.done)
        return state

    def step(self, problem: Problem, state: WalkState) -> WalkState:
        """One step of `fab` on the boundary with the restart's class."""
        target = self._order(problem)[:, problem.restart % self.targets]
        towards = problem.objective.towards(target)
        slope = problem.gradient(state.point, closing(problem), objective=towards)
        state.outputs = slope.outputs
        return walked(problem, state, slope.gradient.flatten(1), -slope.loss, self.walk)

    def _order(self, problem: Problem) -> torch.Tensor:
        if not isinstance(problem.memory, TargetMemory):
            raise TypeError("`prepare` was not called before the first restart")
        return problem.memory.order
