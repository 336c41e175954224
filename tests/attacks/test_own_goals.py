"""Goals and losses of a caller's own lead where they say, on models whose distances are known."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import trustbound as tb
from trustbound.errors import InputError
from trustbound.threat import Misclassify, NormBall, Objective, Threat


@dataclass(frozen=True)
class Below:
    """The logit of class 0 falls below a value, whatever the label."""

    value: float
    name = "below"
    silenced: ClassVar[bool] = False

    def bind(self, labels, classes):
        return Objective(self, labels)

    def concerns(self, labels):
        return torch.ones_like(labels, dtype=torch.bool)

    def margin(self, outputs, labels, targets):
        return outputs[:, 0] - self.value


def task():
    """Logits are inputs; the label's cross-entropy is climbed away from class 1, which leaves class 0 alone."""
    model = tb.wrap(torch.nn.Linear(4, 4, bias=False))
    model.module.weight.data = torch.eye(4)
    inputs = torch.tensor([[0.8, 0.9, 0.1, 0.2], [0.7, 0.9, 0.3, 0.0], [0.6, 0.95, 0.5, 0.5]])
    return model, inputs, torch.ones(3, dtype=torch.int64)


GOAL = Below(0.3)
DISTANCE = torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("name", ["bim", "pgd", "apgd", "square", "margin-pgd", "fmn"])
def test_a_goal_of_ones_own_is_reached_where_it_can_be_and_nowhere_else(name):
    model, inputs, labels = task()
    params = {"steps": 300} if name == "square" else {}
    reach = [
        tb.attack(name, model, inputs, labels, Threat(NormBall("linf", size), GOAL), **params)
        for size in (0.29, 0.41, 0.52)
    ]
    assert [found.success.tolist() for found in reach] == [[False] * 3, [False, True, True], [True] * 3]


def test_the_smallest_change_for_a_goal_of_ones_own():
    model, inputs, labels = task()
    for norm in ("linf", "l2", "l1"):  # one logit has to move
        found = tb.attack("fmn", model, inputs, labels, Threat(NormBall(norm, torch.inf), GOAL))
        assert found.success.all()
        assert (found.size / DISTANCE <= 1.03).all(), norm
        assert (found.size / DISTANCE >= 1.0 - 1e-6).all()


def test_an_audit_of_a_goal_of_ones_own_is_exact():
    model, inputs, labels = task()
    data = tb.LabelledSet(inputs.repeat(20, 1), labels.repeat(20))
    record = tb.audit(model, data, [Threat(NormBall("linf", 0.45), GOAL)], budget="quick", curve_examples=0)
    assert record.brackets[0].broken == 40


def test_a_loss_of_ones_own_is_what_is_climbed():
    model, inputs, labels = task()
    seen = []

    def towards_last(logits, labels, targets=None):
        seen.append(tuple(logits.shape))
        return logits[:, 3] - logits[:, 1]

    threat = Threat(NormBall("linf", 0.4), Misclassify())
    found = tb.attack("pgd", model, inputs, labels, threat, loss=towards_last, random_start=False, stop_early=False)
    assert seen
    moved = found.adversarial - inputs
    assert (moved[~found.success][:, [0, 2]] == 0).all()  # nothing leads there
    inputs, labels = torch.tensor([[0.1, 0.9, 0.1, 0.5]]), labels[:1]
    alone = tb.attack("pgd", model, inputs, labels, "linf:0.21", loss=lambda z, y: z[:, 3] - z[:, 1])
    assert int(alone.prediction) == 3


def test_a_loss_that_gives_one_number_for_all_is_refused_with_what_to_do():
    model, inputs, labels = task()
    with pytest.raises(InputError, match=r"one number for each example, here \(3,\).*reduction='none'"):
        tb.attack("pgd", model, inputs, labels, "linf:0.1", loss=torch.nn.functional.cross_entropy)


def test_named_losses_still_lead_to_the_built_in_goals():
    for goal in ("misclassify", "target:2", "source:1,target:2", "reduce-confidence:0.2"):
        threat = Threat.parse(f"linf:0.1;goal={goal}")
        assert threat.goal.bind(torch.ones(2, dtype=torch.int64), 4).has_surrogates
    assert not GOAL.bind(torch.ones(1, dtype=torch.int64), 4).has_surrogates
