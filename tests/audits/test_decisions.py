"""What the audit decides hangs on the order of the logits, not on their scale, shift or dtype; and on answers."""

import copy
import dataclasses
import functools

import pytest
import torch
from tests.audits.known import linear, verdicts
from torch import nn

import trustbound as tb
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.audits.work_units.verify import verify
from trustbound.errors import InputError
from trustbound.metrics.decision import NO_ANSWER
from trustbound.model.wrapping import wrap
from trustbound.record.codec import from_document, to_document
from trustbound.threat import Access, Threat


class Rescaled(nn.Module):
    """A network whose logits are multiplied, shifted, cast, or made log-probabilities."""

    def __init__(self, network, scale=1.0, shift=0.0, dtype=None, log_softmax=False):
        super().__init__()
        self.network = network
        self.scale, self.shift, self.dtype, self.log_softmax = scale, shift, dtype, log_softmax

    def forward(self, inputs):
        logits = self.scale * self.network(inputs) + self.shift
        logits = logits.log_softmax(dim=1) if self.log_softmax else logits
        return logits if self.dtype is None else logits.to(self.dtype)


@functools.cache
def plain_record():
    return audited(linear(low=0.45, high=0.55))


def audited(known, **changes):
    network = Rescaled(known.exact.model.module, **changes)
    return tb.audit(wrap(network, box=known.data.box), known.data, [known.threat], budget="quick", curve_examples=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 1e-9},
        {"scale": 1e-4},
        {"scale": 1e9},
        {"shift": 1e3},
        {"log_softmax": True},
    ],
    ids=str,
)
def test_the_same_decisions_give_the_same_bracket(changes):
    known = linear(low=0.45, high=0.55)
    record, plain = audited(known, **changes), plain_record()
    assert record.clean_accuracy == plain.clean_accuracy == float(known.correct.double().mean())
    assert plain.brackets[0].upper == known.truth
    assert record.brackets[0].upper == known.truth
    listed = {row.index for row in record.examples if row.tie or row.rounded}
    assert len(listed) <= (6 if "shift" in changes else 0)  # float32 has steps of 6e-5 beside 1e3
    assert all(
        one == other or place in listed
        for place, (one, other) in enumerate(zip(verdicts(record), verdicts(plain), strict=True))
    )


def test_confidences_of_tiny_logits_are_measured_not_tied():
    record = audited(linear(low=0.45, high=0.55), scale=1e-9)
    confidences = {row.confidence for row in record.examples}
    assert len(confidences) > len(record.examples) // 2
    assert all(1 / 3 < value < 1 / 3 + 1e-6 for value in confidences)


def test_a_shift_that_makes_logits_coarse_gives_ties_that_are_listed():
    known = linear(low=0.45, high=0.55)
    record = audited(known, shift=2.0**22)  # float32 has steps of a quarter there
    assert record.brackets[0].lower <= known.truth <= record.brackets[0].upper
    wrong = {row.index for row in record.examples if row.verdict == "misclassified"}
    ties = {row.index for row in record.examples if row.tie}
    assert ties
    assert wrong <= ties | {place for place in range(len(known.data)) if not known.correct[place]}
    stored = from_document(type(record), to_document(record))
    assert {row.index for row in stored.examples if row.tie} == ties


class Breaks(nn.Module):
    """A network that answers NaN, or infinity, for inputs whose mean is below a value."""

    def __init__(self, network, below, value):
        super().__init__()
        self.network, self.below, self.value = network, below, value

    def forward(self, inputs):
        logits = self.network(inputs)
        if self.value == "sqrt":
            root = (inputs.flatten(1).mean(1) - self.below).sqrt()
        elif self.value == "log":
            root = (inputs.flatten(1).mean(1) - self.below).log()
        else:  # overflows to +inf: in float64 it does not
            root = ((self.below - inputs.flatten(1).mean(1)) * 1e6).exp().square().square()
        return logits + 1e-6 * root.unsqueeze(1)


@pytest.mark.parametrize("value", ["sqrt", "log", "overflow"])
def test_inputs_that_the_model_does_not_answer_break_the_example(value):
    known = linear(low=0.45, high=0.55, wrong=0)
    network = known.exact.model.module
    flat = known.data.inputs.flatten(1).mean(1)
    below = float(flat.min()) - 0.01 if value != "overflow" else float(flat.min()) - 1e-3
    module = Breaks(network, below, value)
    with torch.no_grad():
        assert bool(module(known.data.inputs).isfinite().all())
    record = tb.audit(wrap(module), known.data, ["linf:0.4"], budget="quick", curve_examples=0)
    bracket = record.brackets[0]
    # Every example reaches such an input: 0.4 lower in every feature.
    assert bracket.upper == 0.0
    assert 0 < bracket.unanswered <= bracket.broken == len(known.data)
    silent = [row for row in record.examples if row.adversarial_prediction is None]
    assert len(silent) == bracket.unanswered
    assert all(row.adversarial_confidence is None and row.size <= 0.4 + 1e-5 for row in silent)
    assert any("no answer" in event for event in record.events)
    assert all(each.adversarial_prediction != NO_ANSWER for each in record.gallery)


def test_an_attack_reports_inputs_without_an_answer_as_found_for_misclassify_only():
    known = linear(low=0.45, high=0.55, wrong=0)
    module = Breaks(known.exact.model.module, float(known.data.inputs.flatten(1).mean(1).min()) - 0.01, "sqrt")
    inputs, labels = known.data.inputs, known.data.labels
    low = inputs - 0.3
    with torch.no_grad():
        assert bool(module(low).isnan().all())

    class Down(nn.Module):
        def forward(self, given):
            return module(given)

    for name in ("pgd", "square"):
        found = tb.attack(name, Down(), inputs, labels, "linf:0.4")
        assert bool(found.success.all())
        with torch.no_grad():
            silent = ~module(found.adversarial).isfinite().all(1)
        assert torch.equal(found.prediction == NO_ANSWER, silent)
        assert torch.equal(found.confidence.isnan(), silent)
        assert bool(found.adversarial.isfinite().all())
    wanted = tb.attack("pgd", Down(), inputs, labels, "linf:0.4;goal=target:1")
    with torch.no_grad():
        outputs = module(wanted.adversarial[wanted.success])
    assert bool(outputs.isfinite().all())
    assert bool((outputs.argmax(1) == 1).all())


class RootAtZero(nn.Module):
    """Finite everywhere, with a gradient that is NaN wherever the clean input is: 0 · d√0."""

    def __init__(self, network, clean):
        super().__init__()
        self.network = network
        self.register_buffer("clean", clean)

    def forward(self, inputs):
        gap = (inputs.flatten(1)[:, :1] * 0.0).abs().sqrt()  # 0, its derivative 0 * inf
        return self.network(inputs) + gap


def test_a_gradient_that_is_nan_breaks_nothing_by_itself():
    known = linear(low=0.45, high=0.55, wrong=0)
    module = RootAtZero(known.exact.model.module, known.data.inputs)
    for name in ("pgd", "apgd", "fmn"):
        found = tb.attack(name, module, known.data.inputs, known.data.labels, known.threat)
        assert not bool((found.success & known.robust).any())


def test_decisions_only_do_not_hide_what_is_no_answer():
    module = Breaks(nn.Linear(4, 3), 0.5, "sqrt")
    with Oracle(wrap(module), examples=2, access=Access.DECISIONS) as oracle:
        outputs = oracle.outputs(torch.tensor([[0.9] * 4, [0.1] * 4]), torch.arange(2))
    assert outputs[0].sum() == 1.0
    assert bool(outputs[1].isnan().all())
    objective = Threat.parse("linf:0.1;access=decisions").goal.bind(torch.tensor([int(outputs[0].argmax()), 0]), 3)
    assert objective.reached(outputs).tolist() == [False, True]


class Coarse(nn.Module):
    """Works in half precision, hands over float32."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.bfloat16())

    def forward(self, inputs):
        return (inputs.bfloat16() @ self.weight.T).float()


def test_ties_are_those_of_the_coarsest_parameter():
    # Margins of 0.005 beside logits of 1: nothing in bfloat16, much in float32.
    model = wrap(Coarse(torch.tensor([[1.0, 0.0], [0.0, 1.0]])))
    assert model.precision == torch.bfloat16
    inputs, labels = torch.tensor([[0.9961, 1.0], [0.25, 0.75]]), torch.tensor([0, 0])
    threat = Threat.parse("linf:0.1")
    found = tb.attack("pgd", model, inputs, labels, threat)
    objective = threat.goal.bind(labels, 2)
    checked = verify(model, None, threat.perturbations.around(inputs, model.box), objective, found, 8)
    assert found.success.tolist() == [True, True]
    assert checked.confirmed.tolist() == [False, True]
    assert checked.tie.tolist() == [True, False]


def test_a_resumed_run_knows_another_model_by_tiny_logits(tmp_path):
    known = linear(low=0.45, high=0.55)
    network = Rescaled(known.exact.model.module, scale=1e-9)
    asked = {"budget": "quick", "curve_examples": 0, "run": tmp_path / "run"}
    tb.audit(wrap(network), known.data, [known.threat], **asked)
    tb.audit(wrap(network), known.data, [known.threat], **asked)
    network.scale = -1e-9  # no part of any description
    with pytest.raises(InputError, match="answered these examples otherwise"):
        tb.audit(wrap(network), known.data, [known.threat], **asked)


def test_proofs_that_rounding_takes_are_counted_and_said():
    known = linear(low=0.45, high=0.55, wrong=0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).requires_grad_(False)
    with torch.no_grad():
        module[1].weight.copy_(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))
        module[1].bias.fill_(3e6)  # margins of 1 beside sums of 3e6: float32 may lose them all
        labels = (module[1].weight @ known.data.inputs.flatten(1).T).T.argmax(1)
    data = tb.LabelledSet(known.data.inputs, labels)
    record = tb.audit(wrap(module), data, ["linf:0.0001"], budget="quick", curve_examples=0)
    bracket = record.brackets[0]
    assert bracket.certified == 0
    assert bracket.rounded > 0
    assert f"{bracket.rounded} proofs lost to rounding in float32" in bracket.no_proof
    assert sum(row.rounded for row in record.examples) == bracket.rounded
    assert any(step.rounded == bracket.rounded for step in record.steps if step.kind == "proof")
    older = to_document(record)
    for part in older["brackets"]:
        del part["rounded"], part["unanswered"]
    for part in older["examples"]:
        del part["tie"], part["rounded"]
    assert from_document(type(record), older).brackets[0] == dataclasses.replace(bracket, rounded=0, unanswered=0)


@pytest.fixture(scope="module")
def trained():
    """A small network on the digits, with a ball in which about half of the examples fall."""
    data = tb.load_data("digits")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    inputs, labels = data.inputs.float(), data.labels
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    return network.eval().requires_grad_(False), data.stratified(30, 0)


COPIES = {
    "1e-9": {"scale": 1e-9},
    "1e9": {"scale": 1e9},
    "shifted": {"shift": 1e3},
    "log-softmax": {"log_softmax": True},
    "float64, 1e-9": {"scale": 1e-9},
}


def test_one_network_in_many_scales_has_one_bracket(trained):
    network, data = trained

    def audit(module):
        return tb.audit(wrap(module), data, ["linf:0.06"], budget="quick", curve_examples=0)

    plain = audit(Rescaled(network))
    bracket = plain.brackets[0]
    assert 0 < bracket.broken < 30
    assert bracket.certified > 0
    assert not any("out of the ordinary" in note for note in plain.model.notes)
    for name, changes in COPIES.items():
        module = Rescaled(network, **changes)
        record = audit(copy.deepcopy(module).double() if "float64" in name else module)
        listed = {place for place, row in enumerate(record.examples) if row.tie or row.rounded}
        assert len(listed) <= (6 if name == "shifted" else 1), name
        different = {
            place
            for place, (one, other) in enumerate(zip(record.examples, plain.examples, strict=True))
            if one.verdict != other.verdict
        }
        assert different <= listed, (name, different, listed)
        assert any("out of the ordinary" in note for note in record.model.notes) == ("scale" in changes), name


@pytest.mark.parametrize("name", ["pgd", "apgd", "margin-pgd", "fmn", "square"])
def test_copies_that_differ_by_a_power_of_two_are_searched_along_one_path(trained, name):
    network, data = trained
    asked = {"steps": 20} if name != "square" else {"steps": 100}
    found = [
        tb.attack(name, Rescaled(network, scale=scale), data.inputs, data.labels, "linf:0.05", **asked)
        for scale in (2.0**-40, 2.0**40)
    ]
    assert torch.equal(found[0].adversarial, found[1].adversarial)
    assert torch.equal(found[0].success, found[1].success)
    plain = tb.attack(name, network, data.inputs, data.labels, "linf:0.05", **asked)
    assert abs(int(found[0].success.sum()) - int(plain.success.sum())) <= 1
    assert 0 < int(plain.success.sum()) < 30
