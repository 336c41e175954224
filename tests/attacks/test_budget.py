"""Budgets hold by grant: an attack whose steps double, counted example by example outside of the library."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from trustbound.attacks import attack
from trustbound.attacks.searching.problem import State
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.threat import Access

#: Examples; each is told by its last feature, k / EXAMPLES, which no attack here touches.
EXAMPLES = 6


class Batched(nn.Module):
    """A model and a detector that count, by example, what they are asked: forwards, backwards, verdicts."""

    def __init__(self):
        super().__init__()
        self.forwards, self.backwards, self.verdicts = torch.zeros(3, EXAMPLES, dtype=torch.int64)

    def forward(self, inputs):
        whose = self.whose(inputs)
        self.forwards += whose
        if inputs.requires_grad:
            inputs.register_hook(lambda _: self.back(whose))
        return torch.stack([inputs[:, 0] - 0.55, 0.02 * inputs[:, 1]], dim=1)

    def back(self, whose):
        self.backwards += whose

    def detects(self, inputs):
        """Rejects some of what it is shown."""
        self.verdicts += self.whose(inputs)
        return inputs[:, 1] > 0.6

    @staticmethod
    def whose(inputs):
        return torch.bincount((inputs.detach()[:, 2] * EXAMPLES).round().to(torch.int64), minlength=EXAMPLES)


@dataclass(kw_only=True, eq=False)
class Made(State):
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class Doubling:
    """Looks 1, 2, 4, 8 … times at step 0, 1, 2, 3 …, in one crowd or one after another, with gradients or without."""

    seeks: ClassVar[str] = "any"

    needs: Access = Access.SCORES
    crowded: bool = False
    steps: int = 6
    restarts: int = 1

    def init(self, problem):
        """Start at the clean input."""
        return Made(theta=problem.inputs.clone(), done=torch.zeros(len(problem), dtype=torch.bool))

    def step(self, problem, state):
        """Move a little, then look so often."""
        state.theta[:, 0] -= 0.06
        state.theta[:, 1] -= 0.1
        looks = 2**state.made
        owner = torch.arange(len(problem)).repeat_interleave(looks) if self.crowded else torch.arange(len(problem))
        for _ in range(1 if self.crowded else looks):
            if self.needs is Access.GRADIENTS:
                problem.gradient(state.theta[owner], "margin", owner=owner)
            else:
                problem.outputs(state.theta[owner], owner)
        state.made += 1
        return state


def marked():
    inputs = torch.full((EXAMPLES, 3), 0.9)
    inputs[:, 0] -= 0.03 * torch.arange(EXAMPLES)  # they reach the goal at different steps
    inputs[:, 2] = torch.arange(EXAMPLES) / EXAMPLES
    return inputs, torch.zeros(EXAMPLES, dtype=torch.int64)


@pytest.mark.parametrize("detector", [False, True], ids=["open", "detector"])
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("access", list(Access), ids=lambda level: level.name.lower())
@pytest.mark.parametrize("crowded", [False, True], ids=["in-turn", "crowd"])
def test_a_count_outside_agrees_to_the_query_and_is_never_above_the_budget(access, draws, detector, crowded):
    inputs, labels = marked()
    price = draws + detector
    used, rejected = set(), 0
    for looks, batch, restarts in itertools.product((2, 3, 4, 5, 9, 10, 33, 64), (1, 4, 256), (1, 2)):
        budget = price * looks + looks % price
        rows = Batched()
        model = wrap(rows, adaptation=Adaptation(draws=draws, detector=rows.detects if detector else None))
        method = Doubling(needs=access, crowded=crowded, restarts=restarts)
        threat = f"linf:0.8;access={access.name.lower()}"
        found = attack(method, model, inputs, labels, threat, budget=budget, batch_size=batch)
        assert found.forwards.tolist() == (rows.forwards + rows.verdicts).tolist()
        assert found.backwards.tolist() == rows.backwards.tolist()
        assert int(found.forwards.max()) <= budget
        used.add(int(found.forwards.max()))
        rejected += int(rows.verdicts.sum())
    assert len(used) > 4  # the budgets made a difference
    assert (rejected > 0) == detector


def test_a_doubled_step_is_made_as_a_whole_or_not_at_all():
    """Of 1 + (1 + 2 + 4 + 8) + 1 forwards a budget of 16 leaves the last step out, and 17 pays for it."""
    inputs, labels = marked()
    for crowded in (True, False):
        spent = {}
        for budget in (16, 17):
            method = Doubling(crowded=crowded, steps=4)
            found = attack(method, Batched(), inputs, labels, "linf:0.01;access=scores", budget=budget)
            spent[budget] = set(found.forwards.tolist())
            assert (found.events != ()) == (budget == 16)
        assert spent[17] == {17}
        assert spent[16] == ({9} if crowded else {16})
