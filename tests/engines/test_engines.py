"""Engines are chosen by name; what they cannot follow is refused in one sentence."""

import pytest
import torch

import trustbound as tb
from trustbound.audits.stages.context import Context
from trustbound.audits.work_units.subject import Subject
from trustbound.engines import started
from trustbound.engines.registry import ENGINES
from trustbound.errors import InputError, MissingDependencyError

DATA = tb.LabelledSet(torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), [0, 1, 0, 1, 0, 1])


def double(unit, subject):
    return unit * subject


def test_in_process_carries_out_one_unit_when_its_result_is_asked_for():
    done = []

    def execute(unit, subject):
        done.append(unit)
        return unit * subject

    engine = started("in-process", execute, 10)
    results = engine.run([1, 2, 3])
    assert done == []
    assert (next(results), done) == (10, [1])
    assert (list(results), done) == ([20, 30], [1, 2, 3])
    assert engine.events == []


def test_what_is_given_goes_to_every_unit():
    engine = started("in-process", lambda unit, subject, first, last: unit * subject + first - last, 10)
    assert list(engine.run([1, 2], 5, 3)) == [12, 22]


@pytest.mark.parametrize("option", [{"workers": 2}, {"address": "auto"}])
def test_an_engine_without_workers_takes_none(option):
    (name,) = option
    with pytest.raises(InputError, match=f"`{name}` is for an engine with workers \\(ray\\); got .* for 'in-process'"):
        started("in-process", double, 1, **option)


@pytest.mark.parametrize("workers", [0, -1, True, 1.5])
def test_workers_are_a_whole_number(workers):
    with pytest.raises(InputError, match="`workers` must be a whole number ≥ 1"):
        started("ray", double, 1, workers=workers)


def test_an_unknown_engine_is_answered_with_those_there_are():
    with pytest.raises(InputError, match="must be one of in-process, ray; got 'Ray'"):
        started("Ray", double, 1)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs an extra: pip install 'trustbound\[ray\]'"):
        started("ray", double, 1)


def test_every_extra_can_be_installed():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for row in ENGINES:
        assert bool(row.extra) == row.workers
        assert not row.extra or row.extra in project["optional-dependencies"]


def test_a_run_keeps_the_size_of_its_units(tmp_path):
    model = tb.wrap(torch.nn.Linear(4, 2))

    def audit(**more):
        return tb.audit(model, DATA, ["linf:0.1"], budget="quick", curve_examples=0, run=tmp_path, **more)

    audit(unit_size=2)
    with pytest.raises(InputError, match="begun with 2 examples a unit; got unit_size=3"):
        audit(unit_size=3)
    audit()
    audit(unit_size=2)
    with pytest.raises(InputError, match="`unit_size` must be a whole number, at least 1; got 0"):
        audit(unit_size=0)


def test_a_step_is_cut_in_as_many_units_as_keep_workers_busy():
    """Into as many units as the engine asks for, none below a few dozen examples, all of them once."""
    data = tb.LabelledSet(torch.rand(200, 4), torch.zeros(200, dtype=torch.int64))
    asked = Subject(model=tb.wrap(torch.nn.Linear(4, 2)), data=data, threats={})
    fixed = {"subject": asked, "engine": None, "budget": "quick", "seed": 0, "key": 1, "classes": 2, "store": None}
    for size, parts, count, expected in (
        (512, 1, 200, [200]),
        (64, 1, 200, [64, 64, 64, 8]),
        (512, 4, 200, [50, 50, 50, 50]),
        (512, 16, 200, [32, 32, 32, 32, 32, 32, 8]),
        (40, 4, 200, [40] * 5),
        (512, 16, 0, []),
        (20, 16, 50, [20, 20, 10]),
    ):
        context = Context(**fixed, control=torch.zeros(200, dtype=torch.bool), unit_size=size, parts=parts)
        units = context._units("step", "clean", torch.arange(count), size)
        assert [len(unit.positions) for unit in units] == expected
        assert [position for unit in units for position in unit.positions] == list(range(count))
