"""A time that is given: what is needed is done, the rest while it fits, and what is left out is named."""

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.audits.stages.allowance import PLANNED, TimeLimit
from trustbound.record.store import Store

EXPECTED = {"t/first": 10.0, "t/wide": 20.0, "t/proof-crown": 30.0, "t/checks-after": 40.0}
NEEDED = frozenset({"t/first", "t/checks-after"})


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def store():
    store, scratch = Store.temporary({})
    with store:
        yield store
    scratch.cleanup()


def limit(store, seconds, clock):
    return TimeLimit(store, EXPECTED, NEEDED, seconds, clock=clock)


def test_what_is_needed_later_is_counted_first(store):
    clock = Clock()
    given = limit(store, 75.0 / PLANNED, clock)
    clock.now = 10.0
    assert given.affords("t/wide")  # 10 + 20 + 40
    clock.now = 30.0
    assert not given.affords("t/proof-crown")  # 30 + 30 + 40
    assert given.affords("t/proof-crown", share=0.1, part="-1")


def test_each_threat_has_its_share(store):
    clock, expected = Clock(), {**EXPECTED, **{f"u{name[1:]}": seconds for name, seconds in EXPECTED.items()}}
    needed = NEEDED | {f"u{name[1:]}" for name in NEEDED}
    given = TimeLimit(store, expected, needed, 160.0 / PLANNED, clock=clock)  # 80 of the 100 that each would take
    clock.now = 10.0
    assert given.affords("t/wide")
    clock.now = 30.0
    assert not given.affords("t/proof-crown")
    clock.now = 90.0
    assert given.affords("u/wide")


def test_a_slow_machine_is_seen(store):
    clock = Clock()
    given = limit(store, 100.0 / PLANNED, clock)
    clock.now = 60.0  # for the ten and twenty seconds that were announced
    assert not given.affords("t/wide")


def test_the_same_is_left_out_by_whoever_goes_on(store):
    clock = Clock()
    assert not limit(store, 1.0, clock).affords("t/wide")
    assert not limit(store, 1e9, clock).affords("t/wide")
    assert limit(store, 1e9, clock).affords("t/proof-crown")


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
    return net.eval().requires_grad_(False), test.stratified(60)


def test_no_time_at_all_leaves_the_first_search_the_controls_and_the_checks(digits, tmp_path):
    net, data = digits
    asked = {"budget": "standard", "run": tmp_path / "run", "curve_examples": 20}
    record = tb.audit(tb.wrap(net), data, ["linf:0.03"], seconds=1e-3, **asked)
    names = {step.name for step in record.steps}
    assert {"trial-smooth", "proof-interval", "control-apgd", "control-square"} <= names
    assert not names & {"wide", "near", "last", "round-1-walk"}
    assert record.curves == ()
    assert len([check for check in record.checks if check.verdict != "SKIP"]) > 10
    said = [event for event in record.events if "left out for time" in event]
    assert [event.rpartition(": ")[2] for event in said] == ["wide", "near", "last", "rounds", "the curve"]
    # Whoever goes on with all the time there is finds the same.
    again = tb.audit(tb.wrap(net), data, ["linf:0.03"], seconds=1e6, **asked)
    assert again.brackets == record.brackets
    assert [event for event in again.events if "left out" in event] == said


def test_time_enough_changes_nothing(digits):
    net, data = digits
    asked = {"budget": "quick", "curve_examples": 20}
    free, timed = (tb.audit(tb.wrap(net), data, ["linf:0.03"], seconds=given, **asked) for given in (None, 1e6))
    assert free.brackets == timed.brackets
    assert [curve.upper for curve in free.curves] == [curve.upper for curve in timed.curves]
    assert not [event for event in timed.events if "left out" in event]


@pytest.mark.parametrize("seconds", [0, -1.0, "a", float("nan"), True, float("inf")])
def test_a_time_that_is_none_is_refused(digits, seconds):
    net, data = digits
    with pytest.raises(tb.errors.InputError, match="`seconds` must be a number above 0"):
        tb.audit(tb.wrap(net), data, ["linf:0.03"], seconds=seconds)


def test_what_was_done_before_is_not_left_out(digits, tmp_path):
    net, data = digits
    asked = {"budget": "standard", "run": tmp_path / "run", "curve_examples": 20}
    whole = tb.audit(tb.wrap(net), data, ["linf:0.03"], **asked)
    again = tb.audit(tb.wrap(net), data, ["linf:0.03"], seconds=1e-3, **asked)
    assert [step.name for step in again.steps] == [step.name for step in whole.steps]
    assert again.curves == whole.curves
    assert again.brackets == whole.brackets
    assert not [event for event in again.events if "left out" in event]
