"""An attack of your own: its numbers, `init` and `step`; the loop does the rest."""

from dataclasses import dataclass
from typing import ClassVar

import torch

import trustbound as tb
from trustbound.attacks.problem import Problem, State
from trustbound.threat import Access


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Try uniform points of the set; needs decisions only."""

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.DECISIONS

    steps: int = 50
    restarts: ClassVar[int] = 1

    def init(self, problem: Problem) -> State:
        """Start at the clean inputs."""
        return State(theta=problem.inputs.clone(), done=torch.zeros(len(problem), dtype=torch.bool))

    def step(self, problem: Problem, state: State) -> State:
        """One draw for each example: numbers that depend on the example and the draw, not on its neighbours."""
        drawn = int(problem.oracle.forwards.max())
        state.theta = problem.neighbourhood.start(problem.random.stream(str(drawn)), problem.restart)
        problem.outputs(state.theta)
        return state


linear = torch.nn.Linear(2, 2, bias=False)
torch.nn.init.eye_(linear.weight)
model = tb.wrap(linear)
inputs = torch.rand(20, 2)
labels = model(inputs).argmax(dim=1)
found = tb.attack(RandomSearch(), model, inputs, labels, "linf:0.3;access=decisions")
print(f"{int(found.success.sum())} of 20 broken with {found.cost.queries} queries")
