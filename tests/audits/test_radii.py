"""Radii on the curve: those that asking at every size would give, for at most four bounds of an example."""

import contextlib
import sqlite3
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import trustbound as tb
from trustbound.audits.stages import radii
from trustbound.audits.stages.proving import BOUNDS, LEAST_BLOCK, SAMPLE, at_least, long, sampled
from trustbound.audits.stages.radii import next_index
from trustbound.audits.work_units.subject import Subject
from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.threat import Threat


@pytest.fixture(scope="module")
def digits():
    training, test = (tb.load_data("digits", split=split) for split in ("train", "test"))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(10):
        for rows in torch.randperm(len(training)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(training.inputs[rows].float()), training.labels[rows]).backward()
            optimiser.step()
    return net.eval().requires_grad_(False), test.stratified(45)


def asked(run, certifier):
    """How often each example was asked about for the curve."""
    with contextlib.closing(sqlite3.connect(run / "audit.sqlite")) as base:
        rows = base.execute("SELECT position FROM evidence WHERE step LIKE ?", (f"%/curve-proof-{certifier}-%",))
        return Counter(position for (position,) in rows)


@pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.3"])
def test_the_curve_is_what_asking_at_every_size_gives(digits, tmp_path, threat):
    net, data = digits
    run = tmp_path / "run"
    record = tb.audit(tb.wrap(net), data, [threat], budget="quick", curve_examples=len(data), run=run)
    (curve,) = record.curves
    graph, parsed = read(net, data.inputs[:2].float()), Threat.parse(threat)
    correct = net(data.inputs.float()).argmax(1) == data.labels
    expected = []
    for size in curve.epsilons:
        sizes = torch.full((len(data),), size, dtype=torch.float64)
        proven = torch.zeros(len(data), dtype=torch.bool)
        for certifier in ("interval", "lipschitz", "crown"):
            found = certify(certifier, graph, data.inputs.float(), data.labels, parsed, sizes=sizes, box=(0.0, 1.0))
            proven |= found.certified
        expected.append(int((proven & correct).sum()))
    found = [round(low * curve.n) for low in curve.lower]
    assert all(low <= high for low, high in zip(found, expected, strict=True))
    assert expected[4] > expected[30] + 8 > 8  # there is something to find
    assert sum(expected) - sum(found) <= 0.01 * sum(expected)
    assert max(asked(run, "crown").values()) <= BOUNDS


class Wide(nn.Module):
    """Much that cancels out: nothing is proven by pushing limits forward or back."""

    def __init__(self, inner, factor=1e3):
        super().__init__()
        self.inner, self.factor = inner, factor
        torch.manual_seed(1)
        self.noise = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, inputs):
        flat = 1e3 * inputs.flatten(1)
        return self.inner(inputs) + self.factor * (self.noise(flat) - self.noise(flat + 0.0 * flat))


def test_a_dear_certifier_that_proves_nothing_is_asked_about_a_sample(digits, tmp_path):
    net, data = digits
    run = tmp_path / "run"
    record = tb.audit(tb.wrap(Wide(net)), data, ["linf:0.03"], budget="quick", curve_examples=len(data), run=run)
    (curve,) = record.curves
    assert len(asked(run, "crown")) == SAMPLE
    assert f"crown proved nothing more of {SAMPLE} examples and was not asked about the others" in curve.note


@pytest.mark.parametrize("takes_long", [True, False])
def test_a_certifier_that_takes_long_and_moves_the_curve_little_is_asked_about_a_sample(
    digits, tmp_path, monkeypatch, takes_long
):
    net, data = digits
    run = tmp_path / "run"
    monkeypatch.setattr(radii, "long", lambda *given: takes_long)
    model = tb.wrap(Wide(net, 20.0))
    record = tb.audit(model, data, ["linf:0.03"], budget="quick", curve_examples=len(data), run=run)
    (curve,) = record.curves
    assert curve.lower[0] > 0.2
    assert max(at for at, low in zip(curve.epsilons, curve.lower, strict=True) if low) < 0.03 / 4
    assert ("of the curve's width and was not asked about the others" in curve.note) is takes_long
    assert (len(asked(run, "crown")) == SAMPLE) is takes_long


def test_samples_shrink_with_what_a_bound_takes():
    sizes = []
    for width in (64, 4096, 20_000):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
        data = tb.LabelledSet(torch.rand(20, 4), torch.zeros(20).long())
        subject = Subject(model=tb.wrap(net, box=(0.0, 1.0)), data=data, threats={})
        sizes.append((at_least(subject, "crown"), sampled(subject, "crown"), long(subject, "crown", 100)))
    assert sizes == [(2**20, SAMPLE, False), (256, SAMPLE, False), (10, 4, True)], sizes
    assert LEAST_BLOCK == 8


@given(
    st.dictionaries(st.integers(1, 32).map(float), st.floats(-1e9, 1e9), max_size=5),
    st.floats(0.0, 1e6),
    st.integers(-1, 20),
    st.integers(2, 13),
    st.integers(1, 4),
)
def test_the_next_size_lies_between_what_holds_and_what_fails(points, clean, low, gap, number):
    assert low < next_index({0.0: clean, **points}, low, low + gap, number) < low + gap


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_a_margin_that_falls_as_a_power_is_found_in_two(power):
    def margin(at):
        return 5.0 - 0.01 * at**power

    last = max(at for at in range(33) if margin(at) > 0)
    points, low, high = {0.0: 5.0, 16.0: margin(16)}, 16 if margin(16) > 0 else 0, 16 if margin(16) <= 0 else 33
    points[8.0] = margin(8)
    for number in (1, 2):
        if high - low > 1:
            at = next_index(points, low, high, number)
            points[at] = margin(at)
            low, high = (at, high) if margin(at) > 0 else (low, at)
    assert low == last or (high - low > 1 and last == 32)
