"""An attack of your own: its parameters, `init` and `step`; the loop does the rest."""

from dataclasses import dataclass
from typing import ClassVar

import torch

import trustbound as tb
from trustbound.attacks.searching.problem import Problem, State
from trustbound.threat import Access


@dataclass(kw_only=True, eq=False)
class Drawn(State):
    """The current point and the count of draws made."""

    made: int = 0


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Try uniform points of the set; needs decisions only."""

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.DECISIONS

    steps: int = 50
    restarts: ClassVar[int] = 1

    def init(self, problem: Problem) -> Drawn:
        """Start at the clean inputs."""
        return Drawn(theta=problem.neighbourhood.origin(), done=torch.zeros(len(problem), dtype=torch.bool))

    def step(self, problem: Problem, state: Drawn) -> Drawn:
        """One draw for each example: numbers that depend on the example and the draw, not on the rest of the batch."""
        state.theta = problem.neighbourhood.start(problem.random.stream(str(state.made)), problem.restart)
        problem.outputs(state.theta)
        state.made += 1
        return state


linear = torch.nn.Linear(2, 2, bias=False)
torch.nn.init.eye_(linear.weight)
model = tb.wrap(linear)
inputs = torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
labels = model(inputs).argmax(dim=1)
found = tb.attack(RandomSearch(), model, inputs, labels, "linf:0.3;access=decisions")
print(f"{int(found.success.sum())} of 20 broken with {found.cost.queries} queries")
