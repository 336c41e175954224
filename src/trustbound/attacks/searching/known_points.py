"""Points that are known: what was found elsewhere, looked at and measured again like what an attack finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.searching.problem import Problem, State
from trustbound.threat import Access


@dataclass(frozen=True, eq=False)
class KnownPoints:
    """One point for each example, put into its set.

    Shapes      points (B, *F), B the examples that are searched.
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.DECISIONS
    steps: ClassVar[int] = 1
    restarts: ClassVar[int] = 1

    points: Tensor

    def init(self, problem: Problem) -> State:
        """The points, inside."""
        theta = problem.neighbourhood.project(
            self.points.to(problem.inputs)[problem.search_rows.to(self.points.device)]
        )
        return State(theta=theta, done=torch.zeros(len(problem), dtype=torch.bool, device=theta.device))

    def step(self, problem: Problem, state: State) -> State:
        """One look."""
        problem.outputs(state.theta)
        return State(theta=state.theta, done=torch.ones_like(state.done))
