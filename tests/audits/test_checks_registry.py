"""The table of checks, the rule that judges, the contexts and the runner."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.audits.planted_nets import after, before, net
from torch import nn

from trustbound.audits import audit
from trustbound.audits.checks import registry
from trustbound.audits.checks.context import After, Before, Evidence
from trustbound.audits.checks.examine import build, examine
from trustbound.audits.checks.finding import EvaluationCheck, Finding, idle, judge, unmeasured
from trustbound.audits.checks.probe import probe_run
from trustbound.audits.checks.registry import CHECKS
from trustbound.audits.checks.restored import fingerprint
from trustbound.audits.checks.significance import excess_by_chance, holm, severest, share_by_chance
from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError
from trustbound.model.wrapping import wrap
from trustbound.threat import Access, Threat

NAMES = (
    "determinism saturated-output logit-scale-invariance gradient-rate broken-graph finite-differences "
    "monotone-budget black-box-beats-white-box search-exhausted best-against-last incomplete-optimisation "
    "silent-success transfer-success set-and-box eight-bit-rounding input-range model-restored label-order "
    "preprocessing sample-size train-test-overlap disjoint-verdicts"
).split()


def test_all_checks_exist_once():
    assert [row.name for row in CHECKS] == NAMES


@pytest.mark.parametrize("row", CHECKS, ids=lambda row: row.name)
def test_each_row_agrees_with_its_class(row):
    check = CHECKS.load(row.name)
    assert issubclass(check, EvaluationCheck)
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
        "assert len(table.CHECKS) == 22\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_name_is_refused_with_the_names():
    with pytest.raises(InputError, match=r"determinism, .*got 'nonsense'"):
        CHECKS.find("nonsense")


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.0, "PASS"), (0.02, "PASS"), (0.021, "WARN"), (0.2, "WARN"), (0.21, "FAIL"), (float("nan"), "FAIL")],
)
def test_thresholds_are_exceeded_not_met(value, verdict):
    assert judge(CHECKS.find("gradient-rate"), Finding(value=value, finding="")) == verdict


def test_bounds_on_the_verdict():
    row = CHECKS.find("gradient-rate")
    assert judge(row, Finding(value=None, finding="", at_least="FAIL")) == "SKIP"
    assert judge(row, Finding(value=0.0, finding="", at_least="WARN")) == "WARN"
    assert judge(row, Finding(value=9.0, finding="", at_most="WARN")) == "WARN"
    assert judge(CHECKS.find("best-against-last"), Finding(value=1.0, finding="")) == "WARN"  # never FAILs


def test_excess_by_chance_is_the_exact_binomial_tail():
    from math import comb

    for first, second in [(1, 0), (6, 1), (9, 8), (20, 5)]:
        total = first + second
        tail = sum(comb(total, k) for k in range(first, total + 1)) / 2**total
        assert excess_by_chance(first, second) == pytest.approx(tail, rel=1e-12)
    # At odds of 2 the first is right in two of three cases.
    tail = sum(comb(9, k) * 2**k for k in range(8, 10)) / 3**9
    assert excess_by_chance(8, 1, odds=2.0) == pytest.approx(tail, rel=1e-12)
    with pytest.raises(InputError, match=r"≥ 0"):
        excess_by_chance(-1, 0)


def test_a_share_fails_beyond_chance_and_one_example_never_does():
    from math import comb

    tail = sum(comb(40, k) * 0.05**k * 0.95 ** (40 - k) for k in range(5, 41))
    assert share_by_chance(5, 40, 0.05) == pytest.approx(tail, rel=1e-12)
    assert tail < 0.05 < share_by_chance(4, 40, 0.05)
    assert [severest(count, 40, share=0.05) for count in (0, 4, 5)] == ["WARN", "WARN", "FAIL"]
    assert severest(1, 1, share=0.05) == "WARN"
    assert [severest(2, 2, share=0.05), severest(2, 2, share=0.05, least=3)] == ["FAIL", "WARN"]
    with pytest.raises(InputError, match=r"0\.\.2"):
        share_by_chance(3, 2, 0.05)


def test_holm_corrects_for_all_tests_and_keeps_their_order():
    # By hand: the least counts for all four, the next for three of them …, and none falls below one before it.
    assert holm([0.04, 0.01, 0.03, 0.012]) == pytest.approx((0.06, 0.04, 0.06, 0.036 + 0.004))
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([0.03]) == (0.03,)
    assert holm([]) == ()


class Failing(EvaluationCheck):
    name = "determinism"

    def measure(self, context):
        raise KeyError("layer 3")


def test_what_could_not_be_measured_is_a_warning_with_its_reason_where_a_failure_would_be_an_error():
    check = Failing().run(before(net()))
    assert (check.verdict, check.value) == ("WARN", None)
    assert check.finding == "could not be measured: KeyError: 'layer 3'"
    assert check.advice
    for row in CHECKS:
        expected = "WARN" if row.severity == "error" else "SKIP"
        assert judge(row, unmeasured("no")) == expected, row.name
        assert judge(row, idle("no")) == "SKIP", row.name


class Quirky(nn.Module):
    """A network that raises now and then, in its own words."""

    def __init__(self, network, raises):
        super().__init__()
        self.network, self.raises = network, raises
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        if self.raises(self.calls, inputs):
            raise LookupError(f"no table for {len(inputs)} rows")
        return self.network(inputs)


@pytest.mark.parametrize(
    "raises",
    [lambda call, inputs: True, lambda call, inputs: call % 3 == 0, lambda call, inputs: inputs.requires_grad],
    ids=["always", "every third call", "with gradients"],
)
def test_a_model_that_raises_never_stops_the_checks(raises):
    module = Quirky(net(), raises)
    broken = torch.zeros(160, dtype=torch.bool)
    inputs, taken = after(net()).inputs, fingerprint(module)
    evidence = Evidence(broken=broken, adversarial=inputs, white=broken, certified=broken, fingerprint=taken)
    for context in (before(module), after(module, evidence)):
        for check in examine(context).checks:
            row = CHECKS.find(check.name)
            assert check.verdict != "FAIL", check.finding
            if check.finding.startswith("could not be measured") and row.severity == "error":
                assert check.verdict == "WARN"
                assert "no table for" in check.finding or "UnsupportedError" in check.finding, check.finding


def test_a_model_that_refuses_single_examples_is_a_warning_that_says_so():
    module = Quirky(net(), lambda call, inputs: len(inputs) == 1)
    found = examine(before(module), ["determinism"]).checks[0]
    assert found.verdict == "WARN"
    assert "refused them (LookupError: no table for 1 rows)" in found.finding
    assert "batches of any size" in found.advice


class Prototypes(nn.Module):
    """A classifier of many classes by the nearest of drawn centres."""

    def __init__(self, classes, features):
        super().__init__()
        centres = torch.rand(classes, features, generator=torch.Generator().manual_seed(classes))
        self.linear = nn.Linear(features, classes)
        with torch.no_grad():
            self.linear.weight.copy_(20 * centres)
            self.linear.bias.copy_(-10 * centres.square().sum(1))

    def forward(self, inputs):
        return self.linear(inputs.flatten(1))


def many(classes=10, count=48, shape=(9,), dtype=torch.float32, threat="linf:0.1", box=(0.0, 1.0)):
    """An honest classifier and examples beside its centres, 9 in 10 of them right."""
    module = Prototypes(classes, torch.Size(shape).numel()).to(dtype)
    generator = torch.Generator().manual_seed(1)
    centres = module.linear.weight.detach().float() / 20
    labels = torch.randint(0, classes, (count,), generator=generator)
    inputs = (centres[labels] + 0.02 * torch.randn(count, centres.shape[1], generator=generator)).clamp(0.01, 0.99)
    inputs = inputs.reshape(count, *shape)
    labels = module(inputs.to(dtype)).argmax(1)
    wrong = torch.arange(count) % 10 == 9
    labels = torch.where(wrong, (labels + 1) % classes, labels)
    model = wrap(module, box=box)
    return {"model": model, "inputs": inputs, "labels": labels, "threat": Threat.parse(threat)}


SITUATIONS = {
    **{threat: {"threat": threat} for threat in ("linf:0.1", "linf:inf", "linf:0", "l2:0.3", "l2:inf", "l1:0.5")},
    **{threat: {"threat": threat} for threat in ("l1:inf", "l0:1", "l0:2", "l0:3", "l0:inf", "l0:0")},
    "target": {"threat": "linf:0.2;goal=target:3"},
    "source and target": {"threat": "linf:0.2;goal=source:1,target:3"},
    "less confidence": {"threat": "linf:0.2;goal=reduce-confidence:0.5"},
    "l0, odd, target": {"threat": "l0:5;goal=target:3"},
    "scores": {"threat": "linf:0.1;access=scores"},
    "2 classes": {"classes": 2},
    "100 classes": {"classes": 100, "shape": (20,)},
    "1,000 classes": {"classes": 1000, "shape": (30,)},
    "1 example": {"count": 1},
    "3 examples": {"count": 3},
    "1 feature": {"shape": (1,), "classes": 2},
    "pictures": {"shape": (1, 4, 4)},
    "sequences": {"shape": (3, 5)},
    "a box of its own for each feature": {"box": (np.zeros(9) - np.arange(9) / 9, np.ones(9) + np.arange(9))},
    "float64": {"dtype": torch.float64},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_check_is_measured_wherever_its_question_stands_and_no_honest_model_fails(situation):
    known = many(**SITUATIONS[situation])
    taken = fingerprint(known["model"].module)
    context = After(**known)
    struck = (
        probe_run(context, "margin-pgd") if context.threat.access is Access.GRADIENTS else probe_run(context, "square")
    )
    evidence = Evidence(
        clean_outputs=context.model(context.inputs).detach(),
        broken=struck.success,
        adversarial=struck.found.adversarial,
        certified=torch.zeros_like(struck.success),
        control=struck.alive,
        white=struck.success if context.threat.access is Access.GRADIENTS else None,
        fingerprint=taken,
    )
    training = LabelledSet(known["inputs"] * 0.5, known["labels"], box=known["model"].box)
    checks = (
        *examine(Before(**known, training=training)).checks,
        *examine(After(**known, evidence=evidence)).checks,
    )
    assert [check.name for check in checks if check.finding.startswith("could not be measured")] == []
    assert {
        check.name: check.finding for check in checks if check.verdict == "FAIL" and check.name != "sample-size"
    } == {}


def test_the_whole_model_is_examined_under_the_threat_that_sees_most():
    known = many(count=40)
    data = LabelledSet(known["inputs"], known["labels"])
    record = audit(known["model"], data, ["linf:0.05;access=scores", "linf:0.05"], budget="quick", curve_examples=0)
    verdicts = {(check.name, check.threat): check.verdict for check in record.checks}
    assert verdicts["broken-graph", ""] == "PASS"
    assert verdicts["finite-differences", ""] == "PASS"
    assert verdicts["gradient-rate", "linf:0.05;access=scores"] == "SKIP"


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
