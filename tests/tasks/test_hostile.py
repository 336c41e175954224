"""What a hostile reader tried of tasks: one task said in two ways, margins in units of their own, odd numbers."""

import numpy as np
import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.errors import InputError
from trustbound.tasks.naming import parse_task
from trustbound.tasks.regression import Regression
from trustbound.tasks.segmentation import Segmentation
from trustbound.threat import Objective, Threat


def regressor(scale=1.0):
    torch.manual_seed(0)
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.mul_(scale)
        layer.bias.mul_(scale)
    inputs = torch.rand(20, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return layer, inputs, layer(inputs)[:, 0].double()


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("regression:tolerance=0.1", "regression:tolerance=0.5"),
        ("segmentation:min_accuracy=0.8,ignore=255", "segmentation:min_accuracy=0.8,ignore=0"),
    ],
)
def test_model_and_data_that_say_other_numbers_of_one_task_are_refused(model, data):
    if "segmentation" in model:
        net, inputs = nn.Conv2d(1, 3, 3, padding=1), torch.rand(4, 1, 6, 6)
        labels = torch.ones(4, 6, 6, dtype=torch.int64)
    else:
        net, inputs, labels = regressor()
    examples = tb.LabelledSet(inputs, labels, task=data)
    with pytest.raises(InputError, match="say the same of their task"):
        tb.audit(tb.wrap(net, task=model), examples, ["linf:0.01"], budget="quick", curve_examples=0)
    assert tb.LabelledSet(inputs, labels, task=model).task.agrees(parse_task(model))


class Above:
    """The prediction rises by more than `reach`, told in a unit of its own."""

    name, silenced, reach = "above", True, 150.0

    def __init__(self, unit):
        self.unit = unit

    def __str__(self):
        return f"above:{self.unit}"

    def bind(self, labels, classes):
        return Objective(goal=self, labels=labels)

    def concerns(self, labels):
        return torch.ones(len(labels), dtype=torch.bool)

    def margin(self, outputs, labels, targets=None):
        return (labels + self.reach - outputs[:, 0]) * self.unit


@pytest.mark.parametrize("unit", [1e3, 1.0, 1e-3, 1e-5, 1e-9])
def test_no_unit_of_a_goals_margin_turns_successes_into_ties(unit):
    layer, inputs, labels = regressor(1e3)
    with torch.no_grad():
        corners = layer((inputs + 0.3 * layer.weight.sign()).clamp(0.0, 1.0))[:, 0]
    reachable = int((corners > labels + Above.reach).sum())
    assert 0 < reachable < 20
    data = tb.LabelledSet(inputs, labels, task="regression")
    model = tb.wrap(layer, task="regression:tolerance=1000")
    threat = Threat(Threat.parse("linf:0.3").perturbations, goal=Above(unit))
    (bracket,) = tb.audit(model, data, [threat], budget="quick", curve_examples=0).brackets
    assert (bracket.broken, bracket.ties) == (reachable, 0)


def test_a_goal_that_says_nothing_usable_is_refused_in_a_sentence():
    layer, inputs, labels = regressor()
    model = tb.wrap(layer, task="regression:tolerance=1")

    class Odd(Above):
        def concerns(self, labels):
            return torch.ones(len(labels), 2, dtype=torch.bool)

    class Raising(Above):
        def margin(self, outputs, labels, targets=None):
            raise KeyError("no such thing")

    for goal, said in ((Odd(1.0), r"a bool tensor \(20,\)"), (Raising(1.0), "above must give a margin .*KeyError")):
        with pytest.raises(InputError, match=said):
            tb.attack("pgd", model, inputs, labels, Threat(Threat.parse("linf:0.1").perturbations, goal=goal))


def test_certify_reads_a_tasks_text_and_refuses_what_is_no_tensor():
    layer, inputs, labels = regressor()
    model = tb.wrap(layer)
    found = tb.certify("crown", layer, inputs, labels, "linf:0.01", box=(0.0, 1.0), task="regression:tolerance=9")
    assert found.certified.all()
    for wrong in (inputs.numpy(), inputs.tolist()):
        with pytest.raises(InputError, match="`inputs` must be a float tensor"):
            tb.certify("crown", model.module, wrong, labels, "linf:0.01", box=(0.0, 1.0), task=Regression(tolerance=9))


def test_numbers_of_a_task_are_read_or_refused():
    assert Regression(tolerance=np.float32(0.5)).tolerance == 0.5
    assert parse_task(str(Segmentation(min_accuracy=np.float64(0.5)))) == Segmentation(min_accuracy=0.5)
    for text in ("regression:tolerance=1" + "0" * 400, "regression:tolerance=1" + "0" * 5000):
        with pytest.raises(InputError, match="finite number"):
            parse_task(text)
    with pytest.raises(InputError, match="finite number"):
        Regression(tolerance=10**400)
    with pytest.raises(InputError, match="whole number of 64 bits"):
        Segmentation(min_accuracy=0.5, ignore=2**63)


def test_a_unit_of_any_size_holds_what_there_is():
    layer, inputs, labels = regressor()
    data = tb.LabelledSet(inputs, labels, task="regression")
    model = tb.wrap(layer, task="regression:tolerance=1")
    whole, large = (
        tb.audit(model, data, ["linf:0.01"], budget="quick", curve_examples=0, unit_size=size) for size in (20, 2**70)
    )
    assert whole.brackets == large.brackets
