"""No search ends while it still finds: rounds until they are dry, their limit, and the check that says so."""

import itertools

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.attacks import suites
from trustbound.attacks.gradient.margin_pgd import Run
from trustbound.audits.checks.context import After, Evidence
from trustbound.audits.checks.examine import examine
from trustbound.audits.planning.plan import plan
from trustbound.audits.stages.verdicts import Round
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.threat import Threat

THREAT = "l2:0.35"


def subject(n=60):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 4))
    inputs = torch.rand(n, 12)
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    return tb.wrap(net, box=(0.0, 1.0)), tb.LabelledSet(inputs, labels)


def weak(monkeypatch, **rounds):
    """A suite that sees little, so that its rounds have something to find."""
    stage = suites.Stage(name="first", attack="margin", params={"steps": 1, "runs": (Run(start="random"),)})
    near = stage.named("near")
    monkeypatch.setitem(suites.SUITES, "standard", (stage, near))
    monkeypatch.setattr(suites, "_OWN", {})
    monkeypatch.setattr(suites, "_OWN_ROUNDS", {})
    kinds = (
        suites.Stage(name="one", attack="margin", params={"steps": 2, "runs": (Run(start="random"),)}, share=0.3),
        suites.Stage(name="two", attack="boundary-walk", params={"targets": 1, "steps": 6}, share=0.3),
    )
    monkeypatch.setitem(suites._ROUNDS, "standard", suites.Rounds(kinds=kinds, **rounds))


def audited(**more):
    model, data = subject()
    return tb.audit(model, data, [THREAT], budget="standard", curve_examples=0, **more)


def rounds_of(record):
    return [step for step in record.steps if step.name.startswith("round-")]


def check(record):
    return next(each for each in record.checks if each.name == "search-exhausted")


def test_rounds_go_on_until_two_in_a_row_are_dry(monkeypatch):
    weak(monkeypatch, limit=10_000)
    record = audited()
    steps = rounds_of(record)
    by_round = {}
    for step in steps:
        number = int(step.name.split("-")[1])
        tried, broke = by_round.get(number, (0, 0))
        by_round[number] = (tried + step.examined, broke + step.settled)
    dry = [broke < max(1, 0.02 * tried) for tried, broke in by_round.values()]
    assert not any(first and second for first, second in itertools.pairwise(dry[:-1]))
    assert dry[-1] or record.brackets[0].unknown == 0
    assert len(by_round) > 2
    assert check(record).verdict == "PASS"
    monkeypatch.setitem(suites._ROUNDS, "standard", suites.Rounds())
    assert audited().brackets[0].upper > record.brackets[0].upper


def test_a_limit_of_evaluations_is_never_exceeded_and_the_check_says_what_it_cut(monkeypatch):
    weak(monkeypatch, limit=10_000)
    free = audited()
    spent = sum(step.cost.forwards + step.cost.backwards for step in free.steps if step.kind != "proof")
    for limit in (spent // 60 - 4, spent // 120):
        weak(monkeypatch, limit=limit)
        record = audited()
        before = [step for step in record.steps if step.kind != "proof" and not step.name.startswith("round-")]
        taken = sum(step.cost.forwards + step.cost.backwards for step in record.steps if step.kind != "proof")
        floor = sum(step.cost.forwards + step.cost.backwards for step in before)
        assert taken <= max(limit * 60, floor)
    weak(monkeypatch, limit=0)
    cut = audited()
    assert not rounds_of(cut)
    assert check(cut).verdict in ("WARN", "FAIL")
    assert "still finding" in check(cut).finding


def test_a_resumed_search_takes_the_same_rounds(monkeypatch, tmp_path):
    weak(monkeypatch, limit=10_000)
    first = audited(run=tmp_path / "run")
    again = audited(run=tmp_path / "run")
    fresh = audited()
    names = [(step.name, step.examined, step.settled) for step in first.steps]
    assert names == [(step.name, step.examined, step.settled) for step in again.steps]
    assert names == [(step.name, step.examined, step.settled) for step in fresh.steps]


def test_a_round_that_was_refused_is_no_dry_one():
    model, data = subject()

    class Refusing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model.module

        def forward(self, inputs):
            return self.inner(inputs.detach())

    record = tb.audit(tb.wrap(Refusing(), box=(0.0, 1.0)), data, ["l0:2"], budget="standard", curve_examples=0)
    assert check(record).verdict == "SKIP"


@pytest.mark.parametrize("draws", [1, 3])
def test_the_limit_is_one_of_looks_whatever_the_draws(monkeypatch, draws):
    weak(monkeypatch, limit=90)
    model, data = subject()
    model = tb.wrap(model.module, box=(0.0, 1.0), adaptation=Adaptation(draws=draws))
    record = tb.audit(model, data, [THREAT], budget="standard", curve_examples=0)
    taken = sum(step.cost.forwards + step.cost.backwards for step in record.steps if step.kind != "proof")
    assert rounds_of(record)
    assert taken <= 90 * 60 * draws


def test_the_plan_holds_what_rounds_may_cost():
    model, data = subject()
    for budget in ("quick", "standard"):
        found = plan(model, data, [Threat.parse(THREAT)], budget, 0)
        record = tb.audit(model, data, [THREAT], budget=budget, curve_examples=0)
        searched = [step for step in record.steps if step.kind != "proof"]
        assert sum(step.cost.forwards for step in searched) <= found.cost.forwards
        assert any(line.stage == "rounds" for line in found.lines) == (budget == "standard")


@pytest.mark.parametrize(
    ("rounds", "verdict"),
    [
        ((), "SKIP"),
        ((Round("near", 60, 30), Round("last", 40, 0)), "PASS"),
        ((Round("last", 32, 1),), "PASS"),  # one example alone
        ((Round("last", 1000, 19),), "PASS"),
        ((Round("last", 1000, 30),), "WARN"),
        ((Round("last", 20, 3),), "WARN"),  # above a tenth, but no more than chance gives there
        ((Round("last", 72, 35),), "FAIL"),
    ],
)
def test_the_check_judges_the_last_round(rounds, verdict):
    net = nn.Linear(2, 2)
    context = After(
        model=wrap(net),
        inputs=torch.rand(4, 2),
        labels=torch.zeros(4, dtype=torch.int64),
        threat=Threat.parse("l2:0.1"),
        evidence=Evidence(rounds=rounds),
    )
    (found,) = examine(context, ["search-exhausted"]).checks
    assert found.verdict == verdict
    assert ("upper bound is too high" in found.finding) == (verdict in ("WARN", "FAIL"))


@pytest.mark.parametrize(("standing", "verdict"), [(0, "SKIP"), (1, "FAIL")])
def test_a_last_round_that_left_nothing_standing_leaves_no_bound_too_high(standing, verdict):
    net = nn.Linear(2, 2)
    inputs = torch.rand(80, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = net(inputs)
    labels = outputs.argmax(1)
    labels[:5] = 1 - labels[:5]  # wrong from the start: never searched
    broken = torch.ones(80, dtype=torch.bool)
    broken[: 8 + standing] = False
    certified = torch.zeros(80, dtype=torch.bool)
    certified[5:8] = True
    context = After(
        model=wrap(net),
        inputs=inputs,
        labels=labels,
        threat=Threat.parse("l2:0.1"),
        evidence=Evidence(
            clean_outputs=outputs, broken=broken, certified=certified, rounds=(Round("last", 72, 72 - standing),)
        ),
    )
    (found,) = examine(context, ["search-exhausted"]).checks
    assert found.verdict == verdict, found.finding
