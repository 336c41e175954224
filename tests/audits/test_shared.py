"""A thorough audit fits one perturbation for all inputs to half of them, scores it on all, and says so."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import trustbound as tb
from trustbound.attacks.suites import shared_attacks
from trustbound.audits.planning.plan import plan
from trustbound.model.broken_models import StopGradient
from trustbound.record.record_file import json_view, read_record
from trustbound.record.store import Store
from trustbound.threat import Threat

THREAT = "linf:0.3"


@pytest.fixture(scope="module")
def victim():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    train = tb.load_data("digits", split="train")
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(train.inputs), train.labels).backward()
        optimizer.step()
    return tb.wrap(net)


@pytest.fixture(scope="module")
def audited(victim, tmp_path_factory):
    run = tmp_path_factory.mktemp("audit") / "run"
    data = tb.load_data("digits", limit=40)
    asked = {"budget": "thorough", "curve_examples": 0, "run": run}
    return tb.audit(victim, data, [THREAT], **asked), run, data, asked


def evidence(run, step):
    with Store.open(run, Store.asked(run)) as store:
        return store.rows(step)


def test_its_halves_are_counted_apart_and_its_successes_are_witnesses(audited, victim):
    record, run, data, _ = audited
    (facts,) = record.shared
    right = {row.index for row in record.examples if row.verdict != "misclassified"}
    assert (facts.method, facts.threat) == ("uap", THREAT)
    assert facts.fitted + facts.held_out == len(right)
    assert facts.fitted == len(right) // 2
    fitted = {row.position for row in evidence(run, f"{THREAT}/uap-fit")}
    rows = evidence(run, f"{THREAT}/uap")
    assert len(fitted) == facts.fitted
    assert {row.position for row in rows} > fitted
    broken = {row.position for row in rows if row.found}
    assert (facts.fooled_fitted, facts.fooled_held_out) == (len(broken & fitted), len(broken - fitted))
    assert facts.fooled_held_out > 0
    # Measured by hand, from what is drawn in the report.
    shared = load_file(run / "gallery.safetensors")[f"shared/{facts.key}"]
    assert float(shared.abs().max()) <= 0.3 + 1e-6
    assert facts.size == pytest.approx(float(shared.abs().max()))
    with torch.no_grad():
        wrong = victim((data.inputs + shared).clamp(0, 1)).argmax(1) != data.labels
    assert broken == {place for place in wrong.nonzero()[:, 0].tolist() if int(data.indices[place]) in right}
    assert {row.index for row in record.examples if row.verdict == "certified"}.isdisjoint(
        int(data.indices[place]) for place in broken
    )


def test_what_it_costs_is_in_the_record_and_below_the_plan(audited, victim):
    record, run, data, _ = audited
    (facts,) = record.shared
    steps = {step.name: step for step in record.steps}
    cost = steps["uap-fit"].cost + steps["uap"].cost
    assert (facts.cost.forwards, facts.cost.backwards) == (cost.forwards, cost.backwards)
    assert facts.cost.seconds > 0.05  # thousands of calls: it was timed
    assert sum(row.forwards for row in evidence(run, f"{THREAT}/uap-fit")) == steps["uap-fit"].cost.forwards
    lines = {line.stage: line for line in plan(victim, data, [Threat.parse(THREAT)], "thorough", 0).lines}
    for name in ("uap-fit", "uap"):
        assert steps[name].cost.forwards <= lines[name].forwards
        assert steps[name].cost.backwards <= lines[name].backwards
        assert steps[name].examined <= lines[name].examples


def test_it_is_read_back_told_in_json_and_drawn_in_the_report(audited):
    record, run, _, _ = audited
    kept = read_record(run)
    assert kept.shared == record.shared
    assert json.loads(json.dumps(json_view(kept)))["shared"][0]["held_out"] == record.shared[0].held_out
    from trustbound.report.page import render
    from trustbound.report.sections.gallery import read_gallery

    page = render(kept, gallery=read_gallery(run))
    assert "One change for all inputs" in page
    assert f"The perturbation of uap under {THREAT}, magnified" in page
    # Without it there is no such section.
    assert "Shared perturbations" not in render(dataclasses.replace(kept, shared=()))


def test_a_run_that_was_killed_before_it_was_scored_goes_on_with_the_same(audited, victim):
    import contextlib
    import sqlite3

    record, run, data, asked = audited
    with contextlib.closing(sqlite3.connect(run / "audit.sqlite")) as base, base:
        base.execute("DELETE FROM unit WHERE step = ?", (f"{THREAT}/uap",))
        base.execute("DELETE FROM evidence WHERE step = ?", (f"{THREAT}/uap",))
    again = tb.audit(victim, data, [THREAT], **asked)
    timeless = [dataclasses.replace(facts.shared[0], cost=None) for facts in (record, again)]
    assert timeless[0] == timeless[1]


def test_a_model_through_which_no_gradient_flows_has_none():
    torch.manual_seed(0)
    model = tb.wrap(StopGradient(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), keep_graph=False))
    inputs = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        data = tb.LabelledSet(inputs, model(inputs).argmax(1))
    record = tb.audit(model, data, ["linf:0.02"], budget="thorough", curve_examples=0)
    assert record.shared == ()
    (step,) = [step for step in record.steps if step.name == "uap-fit"]
    assert step.note.startswith("refused: no gradient flows")


@pytest.mark.parametrize(
    ("budget", "threat", "names"),
    [
        ("thorough", "linf:0.1", ("uap",)),
        ("standard", "linf:0.1", ()),
        ("thorough", "l1:1", ()),
        ("thorough", "rotation:10", ()),
        ("thorough", "linf:0.1;access=scores", ()),
        ("thorough", "linf:0.1;goal=target:1", ()),
    ],
)
def test_a_budget_has_it_where_it_serves(budget, threat, names):
    assert shared_attacks(budget, Threat.parse(threat)) == names
