"""What a few examples say before an audit: no clock is asked here, only what is expected of which step."""

import math

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.attacks import attack, build
from trustbound.audits.planning.lines import EARLY, Pricing
from trustbound.audits.planning.outlook import NEAR, OUT_OF_REACH, Outlook, outlook
from trustbound.audits.planning.pilot import Prospect, pilot
from trustbound.audits.planning.pricing import apart, calls
from trustbound.audits.planning.schedule import Attacks, Proof, SecurityCurve, steps
from trustbound.audits.stages.proving import BOUNDS
from trustbound.audits.work_units.subject import Subject
from trustbound.tasks.classification import CLASSIFICATION

THREAT = tb.Threat.parse("linf:0.1")


class Steep(nn.Module):
    """Two logits ± slope · (x − 0.5), behind layers that cancel: intervals lose `waste` times what they must."""

    def __init__(self, waste):
        super().__init__()
        self.inner, self.outer = nn.Linear(1, 2), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.inner.weight.copy_(torch.tensor([[1.0], [1.0]]))
            self.inner.bias.fill_(10.0)  # so that each ReLU passes everything
            self.outer.weight.copy_(torch.tensor([[1.0 + waste, -waste], [0.0, 0.0]]))
            self.outer.bias = nn.Parameter(torch.tensor([-10.5, 0.0]))

    def forward(self, inputs):
        return self.outer(torch.relu(self.inner(inputs)))


def subject(net, inputs, labels=None):
    with torch.no_grad():
        labels = net(inputs).argmax(1) if labels is None else labels
    data = tb.LabelledSet(inputs, labels)
    return Subject(model=tb.wrap(net), data=data, threats={str(THREAT): THREAT})


def test_a_model_without_a_smooth_backward_pass_is_tried_with_the_plain_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 3))
    inputs = torch.rand(40, 4)
    tried = pilot(subject(net, inputs, torch.zeros(40, dtype=torch.int64)))
    with torch.no_grad():
        right = float((net(inputs).argmax(1) == 0).double().mean())
    assert tried.correct == pytest.approx(right)
    assert tried.prospects[str(THREAT)].standing <= right


@pytest.mark.parametrize(("waste", "near", "reach"), [(0.0, 1.0, 1.0), (5.0, 0.0, 1.0), (1000.0, 0.0, 0.0)])
def test_how_far_a_bound_is_from_a_proof(waste, near, reach):
    """Clean margins of 0.09, too small by a little; intervals lose 0.1 · (1 + 2 waste) of them."""
    assert 0.1 / 0.09 <= NEAR < 1.1 / 0.09
    assert 200.0 / 0.09 > OUT_OF_REACH
    asked = subject(Steep(waste), torch.full((6, 1), 0.59))
    found = outlook(asked, THREAT, "interval", torch.arange(6), 1.0)
    assert (found.certified, found.near, found.reach) == (0.0, near, reach)


def test_a_certifier_that_is_refused_promises_nothing():
    asked = subject(nn.Sequential(nn.Linear(2, 3), nn.Softmax(1)), torch.rand(6, 2))
    found = outlook(asked, THREAT, "lipschitz", torch.arange(6), 1.0)  # which has no rule for a softmax
    assert (found.certified, found.near, found.reach) == (0.0, 0.0, 0.0)


def lines(prospect, name="crown", examples=1000, correct=0.9):
    planned = steps(THREAT, "standard", certifiers=[name], curve_examples=100)
    found = Pricing(THREAT, "standard", CLASSIFICATION, examples, correct, prospect).lines(planned)
    return {line.stage: line for line in found}, planned


@pytest.mark.parametrize(
    ("outlook", "asked"),
    [
        (Outlook(seconds=1.0, reach=0.0), 16),  # nothing in reach: the first block
        (Outlook(seconds=1.0, near=0.5), 48),  # something may come: the second one, which is twice as large, too
        (Outlook(seconds=1.0, certified=0.2), 500 + 0.4 * 50),  # all that stand, and the control group's others
    ],
)
def test_blocks_of_a_proof_are_expected_for_as_long_as_they_may_pay(outlook, asked):
    prospect = Prospect(standing=0.5, outlooks={"crown": outlook}, blocks={"crown": 16})
    found, _ = lines(prospect)
    line = found["proof-crown"]
    assert line.likely * line.seconds == pytest.approx(asked)


@pytest.mark.parametrize(("reach", "rounds"), [(0.0, 1), (1.0, 3)])
def test_radii_take_a_bound_each_where_nothing_is_in_reach(reach, rounds):
    prospect = Prospect(standing=0.5, outlooks={"interval": Outlook(seconds=1.0, reach=reach)})
    found, _ = lines(prospect, "interval")
    line = found["curve-proof-interval"]
    assert line.seconds == 100 * BOUNDS
    assert line.likely * line.seconds == pytest.approx(90 * rounds)
    dear, planned = lines(
        Prospect(standing=0.5, outlooks={"crown": Outlook(seconds=1.0, reach=reach)}, samples={"crown": 16})
    )
    assert any(isinstance(step, SecurityCurve) for step in planned)
    assert any(isinstance(step, Proof) for step in planned)
    line = dear["curve-proof-crown"]
    assert line.likely * line.seconds == pytest.approx(48 if not reach else 270)


def test_what_breaks_early_stops_early():
    found, planned = lines(Prospect(standing=0.3, used=0.8))
    first = next(step.stage.name for step in planned if isinstance(step, Attacks) and step.first)
    assert found[first].likely == pytest.approx(0.8 * (0.3 + EARLY * 0.6))


@pytest.mark.parametrize("examples", [1, 12])
def test_draws_of_a_step_share_calls(examples):
    """What is announced one after another is at least what is asked so."""
    method = build("hopskipjump", steps=3, draws=40, tries=30)
    asked = []

    class Watched(nn.Module):
        def forward(self, inputs):
            asked.append(len(inputs))
            return torch.stack([inputs.sum(1) - 2.0, 2.0 - inputs.sum(1)], 1)

    inputs = torch.rand(examples, 4, generator=torch.Generator().manual_seed(0))
    labels = (inputs.sum(1) < 2.0).long()
    attack(method, tb.wrap(Watched()), inputs, labels, "linf:0.01;access=decisions", batch_size=10_000)
    alone, crowd, backwards = apart(method)
    assert len(asked) <= calls(method)
    assert max(asked) > 20 * examples  # together
    assert sum(asked) <= examples * (alone + crowd)
    assert backwards == 0
    assert calls(method) < alone + crowd


def test_a_limit_leaves_the_least():
    """Rows that the model is asked about where there is no time: one at a time, and no attack."""
    asked = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, inputs):
            asked.append(len(inputs))
            return self.layer(inputs)

    torch.manual_seed(0)
    ours = subject(Watched(), torch.rand(40, 4))
    asked.clear()
    tried = pilot(ours, limit=1e-9)
    assert set(asked) == {1}
    assert len(asked) <= 20
    tried = tried.proving({str(THREAT): ["interval"]}, 1e-9)
    prospect = tried.prospects[str(THREAT)]
    assert (prospect.standing, len(prospect.rows)) == (1.0, 8)
    assert prospect.outlooks["interval"] == Outlook(seconds=0.0, tried=False)
    assert math.isfinite(tried.forward)
    asked.clear()
    pilot(ours)
    assert sum(asked) > 1000
