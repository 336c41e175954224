"""Targeted Auto-PGD: one restart for each of the nearest classes, nearest first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.gradient.apgd import APGD, MomentumState
from trustbound.attacks.gradient.apgd_l1 import SparseState
from trustbound.attacks.gradient.nearest_classes import DUAL, by_gap, by_slope
from trustbound.attacks.searching.problem import Batched, Problem
from trustbound.metrics.losses import Loss
from trustbound.threat import Access


@dataclass(kw_only=True, eq=False)
class TargetMemory(Batched):
    """Which class each restart heads for: order (B, k), nearest first."""

    order: Tensor


@dataclass(frozen=True, kw_only=True)
class TargetedAPGD:
    """APGD on the targeted DLR loss, one restart for each of the nearest classes, in their order.

    Examples that fall to one target are not taken to the next. Success is any wrong class, or what else the
    goal says; a goal that names a class gets one restart, towards that class.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       gradients.  Sets: linf, l2, l1, those with parameters of their own.
    Update      that of `apgd`, climbing (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2).
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C), C >= 2.
    Cost        per example: once 1 forward, and with more than one class to choose `candidates` forwards and
                backwards; `steps` forwards and backwards for each target; then 1 forward re-check. Classes
                beyond C - 1 cost nothing.
    Randomness  the start points only.
    Raises      UnsupportedError when the threat gives no gradients, or is no linf, l2 or l1 ball.
    Reference   Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
                parameter-free attacks, 2020 (2003.01690); the order: Melamed, Yehudai and Vardi, MALT powers
                up adversarial attacks, 2024 (2407.02240).
    Deviations  targets are ordered by logit gap over the dual norm of its gradient, where the paper takes the
                logit's rank; of fewer than four classes see `measure.losses.dlr`; and those of `apgd`.

    Parameters
        targets     how many classes are tried at most.
        candidates  how many classes of smallest logit gap are ranked by their slope, at least `targets`.

    >>> from trustbound.attacks import attack
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(2, 3))
    >>> found = attack("apgd-t", model, torch.rand(4, 2), torch.zeros(4, dtype=torch.int64), "linf:1", steps=5)
    >>> int(found.cost.backwards) <= 4 * (2 + 2 * 5)
    True
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.GRADIENTS
    infeasible_norms: ClassVar[tuple[str, ...]] = ("l1",)

    steps: int = 100
    targets: int = 9
    candidates: int = 20
    loss: str | Loss = "dlr"
    random_start: bool = True
    ascent: APGD = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """The search that is sent towards each class."""
        ascent = APGD(steps=self.steps, loss=self.loss, random_start=self.random_start)
        object.__setattr__(self, "ascent", ascent)

    @property
    def restarts(self) -> int:
        """One for each target."""
        return self.targets

    @property
    def initial_forwards(self) -> int:
        """Forwards that `prepare` asks for at most."""
        return 1 + max(self.candidates, self.targets)

    def prepare(self, problem: Problem) -> TargetMemory:
        """Order the classes of each example."""
        named = problem.objective.targets
        if named is not None:
            return TargetMemory(order=named[:, None])
        outputs = problem.outputs(problem.neighbourhood.origin())
        if outputs.shape[1] == 2:
            return TargetMemory(order=by_gap(outputs, problem.objective.labels))
        dual = DUAL.get(problem.neighbourhood.norm, 2.0)
        order = by_slope(problem, outputs, max(self.candidates, self.targets), dual)
        return TargetMemory(order=order[:, : self.targets])

    def init(self, problem: Problem) -> MomentumState | SparseState:
        """A fresh start; finished at once where the classes have run out."""
        state = self.ascent.init(problem)
        if problem.restart >= self._order(problem).shape[1]:
            state.done = torch.ones_like(state.done)
        return state

    def step(self, problem: Problem, state: MomentumState | SparseState) -> MomentumState | SparseState:
        """One step of `apgd` towards the restart's class."""
        target = self._order(problem)[:, problem.restart]
        return self.ascent.advance(problem, state, problem.objective.towards(target))

    def _order(self, problem: Problem) -> Tensor:
        if not isinstance(problem.memory, TargetMemory):
            raise TypeError("`prepare` was not called before the first restart")
        return problem.memory.order
