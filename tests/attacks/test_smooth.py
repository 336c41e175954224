"""The smooth backward pass: each row its own scale, or a refusal."""

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.attacks import attack
from trustbound.attacks.model_access.smooth_relu import SmoothBackward, measure_scales
from trustbound.errors import UnsupportedError

STEPS = 5


class Sequence(nn.Module):
    """Inputs (B, T, 3), whose activations are laid out in one of four ways."""

    def __init__(self, layout):
        super().__init__()
        torch.manual_seed(0)
        self.layout = layout
        self.first = nn.Linear(3, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, inputs):
        hidden = self.first(inputs)
        count, steps, width = hidden.shape
        if self.layout == "sequence-first":
            hidden = torch.relu(hidden.transpose(0, 1)).transpose(0, 1)
        elif self.layout == "folded":
            hidden = torch.relu(hidden.reshape(count * steps, width)).reshape(count, steps, width)
        elif self.layout == "folded, sequence-first":
            hidden = hidden.transpose(0, 1).reshape(steps * count, width)
            hidden = torch.relu(hidden).reshape(steps, count, width).transpose(0, 1)
        else:
            hidden = nn.functional.relu(input=hidden)
        return self.last(hidden.mean(1))


def task(layout, count):
    net = Sequence(layout).eval()
    inputs = torch.rand(count, STEPS, 3, generator=torch.Generator().manual_seed(count))
    with torch.no_grad():
        return net, inputs, net(inputs).argmax(1)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 10, 11, 25])
@pytest.mark.parametrize("layout", ["sequence-first", "folded", "folded, sequence-first"])
def test_activations_whose_first_axis_is_not_the_batch_are_refused(layout, count):
    """Also with as many inputs as steps (5), or a multiple of them, where the shape alone does not show it."""
    net, inputs, labels = task(layout, count)
    with pytest.raises(UnsupportedError, match="first axis is the batch"):
        attack("smooth-pgd", net, inputs, labels, "linf:0.2", steps=3)
    with pytest.raises(UnsupportedError, match="first axis is the batch"):
        measure_scales(net, inputs, "net")


def test_a_scale_measured_elsewhere_is_not_spread_over_rows():
    net, inputs, _ = task("sequence-first", STEPS)
    smooth = SmoothBackward(16.0, torch.ones(4, 1))
    with smooth.on(slice(0, 4), 4), pytest.raises(UnsupportedError, match="first axis"):
        net(inputs[:4])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10])
def test_activations_by_row_are_served_and_each_row_has_its_own_scale(count):
    """Equal alone and in any batch, up to the rounding of a matrix product."""
    net, inputs, labels = task("by row", count)
    scales = measure_scales(net, inputs, "net")
    with torch.no_grad():
        wanted = net.first(inputs).flatten(1).std(1, correction=0)
    torch.testing.assert_close(scales[:, 0], wanted)
    alone = torch.cat([measure_scales(net, row, "net") for row in inputs.split(1)])
    torch.testing.assert_close(scales, alone)
    attack("smooth-pgd", net, inputs, labels, "linf:0.2", steps=3)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_a_model_that_refuses_a_batch_of_one_is_not_asked_about_one(count):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).train()
    assert measure_scales(net, torch.rand(count, 4), "net").shape == (count, 1)


def test_an_audit_of_a_sequence_first_model_goes_on_with_the_plain_gradient():
    net, inputs, labels = task("sequence-first", 30)
    record = tb.audit(tb.wrap(net), tb.LabelledSet(inputs, labels), ["linf:0.3"], budget="quick", curve_examples=0)
    assert any("trial-smooth" in event and "first axis is the batch" in event for event in record.events)
    assert record.brackets[0].broken > 0
    assert "smooth-pgd" not in {step.method for step in record.steps if not step.name.startswith("trial")}
