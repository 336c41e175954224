"""The walk along the boundary: closed forms, what lies outside the set, and where a climb inside it cannot see."""

import math

import pytest
import torch
from torch import nn

from trustbound.attacks import attack
from trustbound.errors import InputError, UnsupportedError
from trustbound.model.wrapping import wrap

DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


def linear(features=30, classes=5, seed=0):
    torch.manual_seed(seed)
    net = nn.Linear(features, classes)
    inputs = 0.4 + 0.2 * torch.rand(40, features)
    return net, inputs, net(inputs).argmax(1).detach()


def distances(net, inputs, labels, norm):
    """The closed form, far from the limits of the box."""
    logits = net(inputs).detach()
    gap = logits.gather(1, labels[:, None]) - logits
    slope = (net.weight[labels][:, None] - net.weight[None]).detach().norm(p=DUAL[norm], dim=2)
    return (gap / slope.clamp(min=1e-30)).masked_fill(gap == 0, math.inf).amin(1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_on_a_linear_model_it_breaks_just_beyond_the_distance_and_never_below(norm):
    net, inputs, labels = linear()
    true = distances(net, inputs, labels, norm)
    model = wrap(net, box=(-9.0, 9.0))
    for place in range(0, 40, 8):
        rows = slice(place, place + 1)
        for factor, wanted in ((1.06, True), (0.999, False)):
            threat = f"{norm}:{float(true[place]) * factor!r}"
            found = attack("boundary-walk", model, inputs[rows], labels[rows], threat, steps=20, targets=4)
            assert bool(found.success) == wanted, (norm, place, factor)


class Hill(nn.Module):
    """Class 0 unless the first feature is large; up to 0.6 the slope points away from there."""

    def forward(self, inputs):
        first = inputs[:, 0]
        hill = torch.where(first < 0.6, 1.0 + first, 1.6 - 8.0 * (first - 0.6))
        return torch.stack([hill, torch.zeros_like(hill)], 1)


def test_random_starts_see_what_the_clean_input_does_not_show():
    inputs, labels = torch.full((12, 2), 0.5), torch.zeros(12, dtype=torch.int64)
    model = wrap(Hill(), box=(0.0, 1.0))
    assert not attack("boundary-walk", model, inputs, labels, "l2:0.35").success.any()
    found = attack("boundary-walk", model, inputs, labels, "l2:0.35", start="random")
    assert int(found.success.sum()) >= 3
    assert float(found.size[found.success].max()) <= 0.35 + 1e-6


def test_what_lies_outside_the_set_is_no_success_and_no_sign_of_one():
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    inputs, labels = torch.tensor([[0.8, 0.2], [0.55, 0.45]]), torch.tensor([0, 0])
    found = attack("boundary-walk", wrap(net), inputs, labels, "linf:0.1", steps=10)
    assert found.success.tolist() == [False, True]
    assert float(found.margin[0]) > 0.35


def test_one_gradient_a_step_and_classes_that_are_not_there_cost_nothing():
    net, inputs, labels = linear(classes=2)
    found = attack("boundary-walk", wrap(net, box=(-9.0, 9.0)), inputs, labels, "l2:1e-6", steps=10, targets=3)
    assert found.backwards.tolist() == [10] * 40
    assert set(found.forwards.tolist()) == {13}  # clean, ranking, ten steps, the last check


def test_the_smooth_backward_pass_needs_something_to_smooth():
    net, inputs, labels = linear()
    with pytest.raises(UnsupportedError, match="ReLU"):
        attack("boundary-walk", wrap(net), inputs, labels, "l2:0.1", sharpness=16.0)
    with pytest.raises(InputError, match="sharpness"):
        attack("boundary-walk", wrap(net), inputs, labels, "l2:0.1", sharpness=0.0)
    with pytest.raises(InputError, match="start"):
        attack("boundary-walk", wrap(net), inputs, labels, "l2:0.1", start="closest")
