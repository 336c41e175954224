"""The table of checks, the rule that judges, the contexts and the runner."""

import importlib
import subprocess
import sys

import pytest
import torch
from tests.audits.planted_nets import after, before, net
from torch import nn

from trustbound.audits.checks import registry
from trustbound.audits.checks.context import Evidence
from trustbound.audits.checks.examine import build, examine
from trustbound.audits.checks.finding import Finding, HealthCheck, judge
from trustbound.audits.checks.registry import CHECKS, find
from trustbound.audits.checks.significance import excess_by_chance, severest
from trustbound.errors import InputError
from trustbound.threat import Access

NAMES = (
    "determinism saturated-output logit-scale-invariance gradient-rate broken-graph finite-differences "
    "monotone-budget black-box-beats-white-box best-against-last incomplete-optimisation silent-success "
    "transfer-success set-and-box eight-bit-rounding input-range model-restored label-order sample-size "
    "train-test-overlap disjoint-verdicts"
).split()


def test_all_twenty_checks_exist_once():
    assert [row.name for row in CHECKS] == NAMES


@pytest.mark.parametrize("row", CHECKS, ids=lambda row: row.name)
def test_each_row_agrees_with_its_class(row):
    module, _, kind = row.target.partition(":")
    check = getattr(importlib.import_module(module), kind)
    assert issubclass(check, HealthCheck)
    assert check.name == row.name
    assert isinstance(check.needs, Access)
    assert row.severity in ("error", "warning", "note")
    assert row.when in ("before", "after")
    assert row.scope in ("model", "threat")
    assert row.warn is not None
    assert row.fail is None or row.fail >= row.warn
    assert all((row.reason, row.unit))
    assert row.line.endswith("?")
    assert isinstance(build(row.name), check)


def test_the_table_itself_does_not_import_torch():
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('table', {registry.__file__!r})\n"
        "table = sys.modules['table'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(table)\n"
        "assert len(table.CHECKS) == 20\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_name_is_refused_with_the_names():
    with pytest.raises(InputError, match=r"determinism, .*got 'nonsense'"):
        find("nonsense")


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.0, "PASS"), (0.02, "PASS"), (0.021, "WARN"), (0.2, "WARN"), (0.21, "FAIL"), (float("nan"), "FAIL")],
)
def test_thresholds_are_exceeded_not_met(value, verdict):
    assert judge(find("gradient-rate"), Finding(value=value, finding="")) == verdict


def test_bounds_on_the_verdict():
    row = find("gradient-rate")
    assert judge(row, Finding(value=None, finding="", at_least="FAIL")) == "SKIP"
    assert judge(row, Finding(value=0.0, finding="", at_least="WARN")) == "WARN"
    assert judge(row, Finding(value=9.0, finding="", at_most="WARN")) == "WARN"
    assert judge(find("best-against-last"), Finding(value=1.0, finding="")) == "WARN"  # never FAILs


def test_excess_by_chance_is_the_exact_binomial_tail():
    from math import comb

    for first, second in [(1, 0), (6, 1), (9, 8), (20, 5)]:
        total = first + second
        tail = sum(comb(total, k) for k in range(first, total + 1)) / 2**total
        assert excess_by_chance(first, second) == pytest.approx(tail, rel=1e-12)
    assert severest(6, 0, 100, points=0.05) == "FAIL"
    assert severest(5, 0, 100, points=0.05) == "WARN"  # 5 points are not more than 5
    assert severest(10, 4, 60, points=0.05) == "WARN"  # 10 points, but 9 % by chance
    with pytest.raises(InputError, match=r"≥ 0"):
        excess_by_chance(-1, 0)


def test_sample_is_drawn_by_the_key_and_carries_its_evidence():
    broken = torch.arange(160) % 3 == 0
    trace = torch.arange(160.0).repeat(2, 1)
    context = after(net(), Evidence(broken=broken, trace=trace))
    once, twice = context.sample(20), context.sample(20)
    assert torch.equal(once.inputs, twice.inputs)
    rows = once.evidence.trace[0].long()
    assert len(rows) == 20
    assert torch.equal(once.inputs, context.inputs[rows])
    assert torch.equal(once.labels, context.labels[rows])
    assert torch.equal(once.evidence.broken, broken[rows])


def test_a_threat_with_less_access_skips_what_needs_gradients():
    found = examine(before(net(), "linf:0.1;access=scores"))
    assert found.verdict("gradient-rate") == "SKIP"
    assert found.verdict("determinism") == "PASS"


def test_records_name_the_threat_only_where_it_matters_and_advise_only_when_needed():
    found = examine(before(nn.Sequential(net(), nn.Softmax(dim=1))))
    by_name = {check.name: check for check in found.checks}
    assert by_name["determinism"].threat == ""
    assert by_name["gradient-rate"].threat == "linf:0.1"
    assert by_name["determinism"].advice == ""
    assert "logits" in by_name["saturated-output"].advice
    assert by_name["saturated-output"].unit
    assert found.cost.forwards > 0


def test_scope_splits_the_checks_without_losing_one():
    context = before(net())
    names = [check.name for scope in ("model", "threat") for check in examine(context, scope=scope).checks]
    assert sorted(names) == sorted(row.name for row in CHECKS if row.when == "before")
