"""A time that is given: what is needed is done, the rest while it fits, and what is left out is named."""

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.audits.stages.allowance import LEAST_SHARE, PLANNED, TimeLimit
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


def test_what_is_needed_is_done_whatever_the_time(store):
    given = limit(store, 1e-3, Clock())
    assert given.affords("t/first")
    assert not given.affords("t/wide")


def test_a_proof_that_promises_nothing_is_left_out_for_time(digits, monkeypatch):
    """Intervals that lose all: with no time they are not run, and the bracket says so; those that prove are."""
    from trustbound.audits.planning import pilot as piloting
    from trustbound.audits.planning.outlook import Outlook

    net, data = digits
    asked = {"budget": "quick", "curve_examples": 0}
    names = {step.name for step in tb.audit(tb.wrap(net), data, ["linf:0.03"], seconds=1e-3, **asked).steps}
    assert "proof-interval" in names  # nothing is known of it
    monkeypatch.setattr(piloting, "outlook", lambda *rest: Outlook(seconds=1e9, reach=0.0))
    record = tb.audit(tb.wrap(net), data, ["linf:0.03"], seconds=1e6, **asked)
    assert not [step for step in record.steps if step.kind == "proof"]
    assert "interval was left out: there was no time for it" in record.brackets[0].no_proof
    assert "linf:0.03: left out for time: proof-interval" in record.events


def test_checks_draw_fewer_examples_before_the_search_is_cut(store):
    """What later checks take is counted with the same share; the last of them see how much is left."""
    expected = {"t/checks-before": 20.0, "t/first": 10.0, "t/wide": 20.0, "t/checks-after": 40.0}
    clock, needed = Clock(), frozenset(expected) - {"t/wide"}
    given = TimeLimit(store, expected, needed, 42.0 / PLANNED, clock=clock)
    assert given.share("t/checks-before") == 0.5  # 10 + 10 + 20
    clock.now = 20.0
    assert not given.affords("t/wide")
    assert given.share("t/checks-after") == 0.5
    # Whoever goes on, at whatever time, draws the same.
    again = TimeLimit(store, expected, needed, 1e9, clock=clock)
    assert [again.share(f"t/checks-{when}") for when in ("before", "after")] == [0.5, 0.5]


def test_where_no_share_fits_checks_do_not_ask_the_model(store):
    assert limit(store, 1e-3, Clock()).share("t/checks-after") == 0.0
    assert limit(store, 10.5 / PLANNED, Clock()).share("u/checks-after") == 1.0  # of a threat that is in no plan
    expected, needed = {"v/checks-after": 40.0}, frozenset({"v/checks-after"})
    assert TimeLimit(store, expected, needed, 10.5 / PLANNED, clock=Clock()).share("v/checks-after") == LEAST_SHARE


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


#: Proofs that are none of what an audit cannot leave out.
DEAR = ("crown", "alpha-crown", "branch-and-bound")


def test_no_time_at_all_leaves_the_first_search_the_controls_and_what_checks_read(digits, tmp_path):
    net, data = digits
    asked = {"budget": "standard", "run": tmp_path / "run", "curve_examples": 20}
    record = tb.audit(tb.wrap(net), data, ["linf:0.03"], seconds=1e-3, **asked)
    names = {step.name for step in record.steps}
    assert {"trial-smooth", "proof-interval", "control-apgd", "control-square"} <= names
    assert not names & {"wide", "near", "last", "round-1-walk"}
    assert record.curves == ()
    left = [check for check in record.checks if "there was no time to ask the model" in check.finding]
    assert {check.name for check in left} >= {"determinism", "gradient-rate", "logit-scale-invariance"}
    assert all(check.verdict == ("WARN" if check.severity == "error" else "SKIP") for check in left)
    read = {"set-and-box", "disjoint-verdicts", "sample-size", "black-box-beats-white-box"}
    assert all(check.verdict in ("PASS", "WARN") for check in record.checks if check.name in read)
    said = [event for event in record.events if "left out for time" in event]
    searches = ["wide", "near", "last", "rounds", *(f"proof-{name}" for name in DEAR), "the curve"]
    first, last = (f"checks {when} the search that ask the model" for when in ("before", "after"))
    assert [event.rpartition(": ")[2].partition(" of 2")[0] for event in said] == [first, *searches, last]
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


def test_what_was_tried_before_is_not_tried_again(digits, monkeypatch):
    """The choice of a budget reads the model and prices it; the audit that follows does neither."""
    from trustbound.audits.planning import plan as planning
    from trustbound.audits.work_units import subject

    net, data = digits
    model, tried, read = tb.wrap(net), [], []
    pilot, reading = planning.pilot, subject.read
    monkeypatch.setattr(planning, "pilot", lambda *rest, **more: (tried.append(rest), pilot(*rest, **more))[1])
    monkeypatch.setattr(subject, "read", lambda *rest, **more: (read.append(rest), reading(*rest, **more))[1])
    threat = tb.Threat.parse("linf:0.03")
    budget, chosen, found = planning.choose(model, data, [threat], 0.5, 0, 0)
    record = tb.audit(model, chosen, [threat], budget=budget, curve_examples=0, seconds=0.5, tried=found)
    assert record.brackets[0].n == len(chosen)
    assert len(tried) == len(read) == 1
    for other, asked in ((tb.wrap(net), "linf:0.03"), (model, "linf:0.04")):
        with pytest.raises(tb.errors.InputError, match="`tried` must be what `choose` found of this model"):
            tb.audit(other, chosen, [asked], budget=budget, tried=found)


def test_a_certifier_that_no_time_is_left_for_is_priced_and_not_tried(digits, monkeypatch):
    from trustbound.audits.planning import pilot as piloting
    from trustbound.audits.stages import proving
    from trustbound.audits.work_units.subject import Subject

    net, data = digits
    threat = tb.Threat.parse("linf:0.03")
    subject = Subject(model=tb.wrap(net), data=data, threats={str(threat): threat})
    tried = piloting.pilot(subject, limit=1.0)
    asked = {str(threat): ["interval", "crown"]}
    assert tried.proving(asked, 5.0).prospects[str(threat)].outlooks["crown"].certified > 0
    monkeypatch.setattr(proving, "SECONDS_AT_ONCE", 1e9)
    outlooks = tried.proving(asked, 5.0).prospects[str(threat)].outlooks
    assert outlooks["interval"].seconds < 1.0
    assert outlooks["crown"].seconds > 5.0
    assert outlooks["crown"].certified == 0.0


def test_examples_are_as_many_as_the_time_allows(digits):
    from trustbound.audits.planning.plan import LEAST, choose

    net, data = digits
    threats = [tb.Threat.parse("linf:0.03")]
    least = choose(tb.wrap(net), data, threats, 1e-3, 0, 0)
    assert (least[0], len(least[1])) == ("quick", LEAST)
    budget, chosen, _ = choose(tb.wrap(net), data, threats, 1e6, 0, 0)
    assert (budget, len(chosen)) == ("thorough", len(data))
