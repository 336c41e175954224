"""How an audit is cut into units: small where proofs are dear, and never a reason to do anything twice."""

import contextlib
import sqlite3
from types import SimpleNamespace

import pytest
import torch

import trustbound as tb
from trustbound.audits.stages import proofs as proofs_stage
from trustbound.audits.stages import proving, radii
from trustbound.audits.work_units.execute import execute
from trustbound.audits.work_units.subject import Subject
from trustbound.model.dyadic import dyadic_network

#: On whose grid inputs and epsilon lie: float32 sums are exact, so that no bit depends on who else is in a unit.
GRID = 6
THREAT = f"linf:{3 / 2**GRID}"


@pytest.fixture(scope="module")
def exact():
    model = dyadic_network(input_shape=(1, 4, 4), widths=(12,), classes=4, grid=10, seed=2)
    inputs = torch.randint(0, 2**GRID + 1, (40, 1, 4, 4), generator=torch.Generator().manual_seed(4)) / 2**GRID
    with torch.no_grad():
        return model, tb.LabelledSet(inputs, model(inputs).argmax(1))


def audit(exact, run):
    return tb.audit(*exact, [THREAT], budget="quick", curve_examples=20, run=run)


def held(run, query):
    with contextlib.closing(sqlite3.connect(run / "audit.sqlite")) as base, base:
        return base.execute(query).fetchall()


def proofs(run):
    """Each proven example with what was proven of it, to a rounding of the slopes, and how many units there were."""
    wanted = "step, position, found, round(margin, 12), size, tie"
    rows = held(run, f"SELECT {wanted} FROM evidence WHERE step LIKE '%proof%' ORDER BY step, position")
    (units,) = held(run, "SELECT count(*) FROM unit WHERE step LIKE '%proof%'")[0]
    return rows, units


def test_small_units_prove_the_same(exact, tmp_path, monkeypatch):
    audit(exact, tmp_path / "large")
    for module in (proofs_stage, radii):
        monkeypatch.setattr(module, "at_once", lambda context, name, count: 8)
    record = audit(exact, tmp_path / "small")
    (expected, few), (found, many) = proofs(tmp_path / "large"), proofs(tmp_path / "small")
    assert found == expected
    assert any(row[2] for row in found)
    assert (few, many) == (13, 35)
    assert record.brackets[0].lower > 0
    audit(exact, tmp_path / "small")
    assert proofs(tmp_path / "small") == (found, many)


def test_a_larger_unit_of_an_earlier_version_is_gone_on_with(exact, tmp_path, monkeypatch):
    run = tmp_path / "run"
    expected = audit(exact, run)
    whole, _ = proofs(run)
    step = f"{THREAT}/proof-interval"
    places = [position for (position,) in held(run, f"SELECT position FROM evidence WHERE step = '{step}' ORDER BY 1")]
    held(run, f"DELETE FROM evidence WHERE step = '{step}' AND position > {places[4]}")
    asked = []

    def watched(unit, subject):
        asked.append((unit.step, *unit.positions))
        return execute(unit, subject)

    monkeypatch.setattr("trustbound.audits.run.execute", watched)
    monkeypatch.setattr(proofs_stage, "at_once", lambda context, name, count: 8)
    record = audit(exact, run)
    assert asked == [(step, *places[first:last]) for first, last in ((5, 8), (8, 16), (16, 24), (24, 32), (32, 40))]
    assert proofs(run)[0] == whole
    assert record.curves[0].lower == expected.curves[0].lower


@pytest.mark.parametrize(
    ("method", "activations", "count", "examples"),
    [
        ("crown", 12, 1000, 500),
        ("crown", 4_800, 186, 186),
        ("crown", 4_800, 187, 94),  # evenly, so that workers end together
        ("crown", 80_000, 3, 1),
        ("interval", 80_000, 1000, 512),
    ],
)
def test_the_size_of_a_unit_follows_the_cost_of_its_proofs(method, activations, count, examples):
    net = torch.nn.Sequential(torch.nn.Linear(2, activations), torch.nn.ReLU(), torch.nn.Linear(activations, 2))
    data = tb.LabelledSet(torch.rand(4, 2), [0, 1, 0, 1])
    context = SimpleNamespace(unit_size=512, subject=Subject(model=tb.wrap(net), data=data, threats={}))
    assert proving.at_once(context, method, count) == examples


def test_attention_is_part_of_the_cost_of_ranges_too():
    """Of 64 tokens every share asks about 64 differences: 512 examples of it are no work of seconds."""
    net = torch.nn.Sequential(torch.nn.Unflatten(1, (64, 64)), torch.nn.Softmax(-1), torch.nn.Flatten())
    net.append(torch.nn.Linear(4096, 2))
    data = tb.LabelledSet(torch.rand(4, 4096), [0, 1, 0, 1])
    context = SimpleNamespace(unit_size=2048, subject=Subject(model=tb.wrap(net), data=data, threats={}))
    assert proving.at_once(context, "interval", 1000) == 500


@pytest.mark.parametrize(("method", "examples"), [("crown", 50), ("interval", 50), ("lipschitz", 50)])
def test_many_classes_are_part_of_the_cost(method, examples):
    net = torch.nn.Sequential(torch.nn.Linear(135, 360), torch.nn.ReLU(), torch.nn.Linear(360, 1000))
    data = tb.LabelledSet(torch.rand(4, 135), [0, 1, 2, 3])
    context = SimpleNamespace(unit_size=512, subject=Subject(model=tb.wrap(net), data=data, threats={}))
    assert proving.at_once(context, method, 100) == examples
