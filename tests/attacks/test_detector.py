"""A declared detector is part of the model under test: what it rejects is no success."""

import dataclasses

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.attacks import attack
from trustbound.attacks.registry import ATTACKS
from trustbound.errors import InputError, ModelError
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.threat import Threat

ROWS = [pytest.param(row, id=row.name) for row in ATTACKS if not row.shared]
BALLS = [row for row in ROWS if row.values[0].norms]  # brightness alone breaks few of these
EPSILON = {"linf": 0.3, "l2": 0.9, "l1": 1.5, "l0": 4.0, "brightness": 0.9}


def first(row):
    """A kind of set that an attack serves."""
    return (*row.norms, "brightness")[0]


def short(row, steps=12):
    """As few steps as will do, where there are any to choose."""
    names = {field.name for field in dataclasses.fields(ATTACKS.load(row.name))}
    return {"steps": 200 if row.needs == "scores" else steps} if "steps" in names else {}


class Net(nn.Module):
    """Counts the rows that it is asked about."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        self.rows = 0

    def forward(self, inputs):
        self.rows += len(inputs)
        return self.layers(inputs)


class Region:
    """Accepts inputs whose last feature is small; counts the rows that it is asked about."""

    def __init__(self, limit):
        self.limit = limit
        self.rows = 0

    def __call__(self, inputs):
        self.rows += len(inputs)
        return inputs[:, -1] > self.limit


def task(detector, draws=1, count=16):
    net = Net().eval()
    inputs = 0.2 + 0.6 * torch.rand(count, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    labels[3] = (labels[3] + 1) % 3  # wrong from the start
    net.rows = 0
    return net, wrap(net, adaptation=Adaptation(detector=detector, draws=draws)), inputs, labels


def answers(net, inputs):
    with torch.no_grad():
        return net(inputs).argmax(1)


@pytest.mark.parametrize("row", BALLS)
def test_only_what_the_detector_accepts_is_a_success(row):
    """It rejects more than half of what reaches the goal; the rest is found, and nothing else."""
    threat = f"{first(row)}:{EPSILON[first(row)]}"
    net, plain, inputs, labels = task(None)
    free = attack(row.name, plain, inputs, labels, threat, **short(row))
    detector = Region(limit=0.45)
    net, model, inputs, labels = task(detector)
    found = attack(row.name, model, inputs, labels, threat, **short(row))
    assert 0 < found.success.sum() < free.success.sum()
    accepted = ~detector(found.adversarial)
    wrong = answers(net, found.adversarial) != labels
    assert torch.equal(found.success, wrong & accepted & found.size.isfinite())
    assert (found.margin[~found.success] >= 0).all()
    assert "the detector rejected" in found.events[-1]
    if not bool(accepted[3]):
        assert not found.success[3]


@pytest.mark.parametrize("goal", ["misclassify", "target:1", "reduce-confidence:0.5"])
@pytest.mark.parametrize("row", BALLS)
def test_a_detector_that_rejects_everything_leaves_no_success(row, goal):
    """Not even of an example that is wrong from the start; and the events say why."""
    _, model, inputs, labels = task(lambda inputs: torch.ones(len(inputs), dtype=torch.bool))
    threat = f"{first(row)}:{EPSILON[first(row)]};goal={goal}"
    found = attack(row.name, model, inputs, labels, threat, **short(row, 4))
    assert not found.success.any()
    (said,) = [event for event in found.events if "detector" in event]
    rejected, asked = said.split()[3:6:2]
    assert rejected == asked
    assert int(asked) > 0


@pytest.mark.parametrize("budget", [None, 2, 3, 4, 5, 8, 9, 21])
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("row", ROWS)
def test_what_the_detector_was_asked_is_counted_and_within_the_budget(row, draws, budget):
    detector = Region(limit=0.45)
    net, model, inputs, labels = task(detector, draws=draws, count=6)
    threat = f"{first(row)}:{EPSILON[first(row)]}"
    if budget is not None and budget < 2 * (draws + 1):
        with pytest.raises(InputError, match=f"at least {2 * (draws + 1)} forwards"):
            attack(row.name, model, inputs, labels, threat, budget=budget)
        assert net.rows == detector.rows == 0
        return
    found = attack(row.name, model, inputs, labels, threat, budget=budget, **short(row, 6))
    assert found.cost.forwards == int(found.forwards.sum()) == net.rows + detector.rows
    assert budget is None or int(found.forwards.max()) <= budget


def test_a_search_turns_away_from_what_is_rejected():
    """Scores alone: the way that lowers the margin most is closed, another one is open."""

    class Two(nn.Module):
        def forward(self, inputs):
            return torch.stack([0.78 - inputs[:, 0] - 0.9 * inputs[:, 1], torch.zeros(len(inputs))], dim=1)

    model = wrap(Two(), adaptation=Adaptation(detector=lambda inputs: inputs[:, 0] > 0.6))
    inputs, labels = torch.full((20, 2), 0.4), torch.zeros(20, dtype=torch.int64)
    found = attack("square", model, inputs, labels, "linf:0.5;access=scores", steps=60)
    assert found.success.all()
    assert (found.adversarial[:, 0] <= 0.6).all()


@pytest.mark.parametrize(
    "answer",
    [lambda x: x[:, 0], lambda x: torch.ones(len(x), 1, dtype=torch.bool), lambda x: True, lambda x: x[:, 0].long()],
)
def test_a_detector_that_answers_something_else_is_refused(answer):
    _, model, inputs, labels = task(answer)
    with pytest.raises(InputError, match=r"a detector must answer inputs"):
        attack("fgsm", model, inputs, labels, "linf:0.3")


def test_an_exception_of_the_detector_is_named():
    def fails(inputs):
        raise KeyError("lost")

    _, model, inputs, labels = task(fails)
    with pytest.raises(ModelError, match=r"the detector of Net .*KeyError"):
        attack("fgsm", model, inputs, labels, "linf:0.3")


@pytest.mark.parametrize("limit", [-1.0, 0.45])
def test_an_audit_takes_the_detector_for_a_part_of_the_model(limit, tmp_path):
    """What it rejects is no success; a clean input that it rejects is not answered rightly; the report says so."""
    detector = Region(limit)
    net, model, inputs, labels = task(detector, count=40)
    right = (answers(net, inputs) == labels) & ~detector(inputs)
    data = tb.LabelledSet(inputs, labels)
    record = tb.audit(model, data, ["linf:0.3"], budget="quick", run=tmp_path, curve_examples=8)
    assert record.clean_accuracy == float(right.double().mean())
    (bracket,) = record.brackets
    assert bracket.misclassified == int((~right).sum())
    assert bracket.broken > 0 or limit < 0
    kept = [tensors for tensors in (tmp_path / "adversarials").rglob("*.safetensors")]
    from safetensors.torch import load_file

    witnesses = [part["adversarial"] for path in kept if "adversarial" in (part := load_file(path))]
    assert not any(bool(detector(points).any()) for points in witnesses)
    text = (tmp_path / "report.html").read_text() if (tmp_path / "report.html").exists() else ""
    said = " ".join((*record.model.notes, *record.events))
    assert "a detector is declared" in said
    assert f"the detector rejects {int(detector(inputs).sum())} of 40 clean inputs" in said
    assert not text or "a detector is declared" in text


def test_a_proof_without_the_detector_holds_with_it():
    """The certified are a part of those that no accepted input breaks."""
    _, model, inputs, labels = task(Region(0.45))
    held = tb.certify("crown", model, inputs, labels, Threat.parse("linf:0.02"))
    found = attack("smooth-pgd", model, inputs, labels, "linf:0.02")
    assert held.certified.any()
    assert not (held.certified & found.success).any()
