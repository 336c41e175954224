"""What every task of the registry keeps, and every attack with it: served and true, or refused before it is asked."""

import dataclasses

import pytest
import torch
from torch import nn

from trustbound.attacks import attack
from trustbound.attacks.registry import ATTACKS
from trustbound.certificates import certify
from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError, TrustboundError, UnsupportedError
from trustbound.model.wrapping import wrap
from trustbound.tasks import Task, parse_task
from trustbound.tasks.registry import TASKS
from trustbound.tasks.view import right_answers, seen
from trustbound.threat import Threat

ROWS = [pytest.param(row, id=row.name) for row in TASKS]
PAIRS = [pytest.param(row, one, id=f"{row.name}-{one.name}") for row in TASKS for one in ATTACKS]
EPSILON = {"linf": 0.3, "l2": 1.5, "l1": 4.0, "l0": 8.0}


def module(*last):
    """A small network on 6×6 pictures with an output of its own."""
    with torch.no_grad():
        last[-1 if len(last) < 3 else 1].weight.mul_(300.0)  # so that any tolerance is soon left
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(0.1), *last)


#: Outputs of every common shape, and labels of every common kind that they could have.
MODULES = {
    "numbers": lambda: module(nn.Flatten(), nn.Linear(144, 3)),
    "a map": lambda: module(nn.Conv2d(4, 3, 3, padding=1)),
    "one number": lambda: module(nn.Flatten(), nn.Linear(144, 1), nn.Flatten(0)),
}
LABELS = {
    "the largest": lambda outputs: outputs.argmax(1),
    "the outputs": lambda outputs: outputs.detach().clone(),
    "signs": lambda outputs: (outputs > 0).long(),
}


def problem(row, count=8):
    """A model of the task and labels that it answers rightly, found from what the task says it takes."""
    task = parse_task(row.example)
    inputs = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    for make in MODULES.values():
        torch.manual_seed(0)
        net = make().eval()
        with torch.no_grad():
            outputs = task.fitted(net(inputs))
        for told in LABELS.values() if outputs is not None else ():
            try:
                labels = task.checked_labels(told(outputs))
                task.check_fit(labels, tuple(outputs.shape[1:]))
            except (InputError, IndexError):
                continue
            scores, right = seen(task, outputs, labels)
            if (scores.argmax(1) == right).all():
                return task, net, inputs, labels
    raise AssertionError(f"nothing here is outputs and labels of {row.name}")


def wrong(task, net, points, labels):
    """Which answers are wrong, by the task's own scores of a fresh forward."""
    with torch.no_grad():
        scores, right = seen(task, task.fitted(net(points)), labels)
    return scores.argmax(1) != right


@pytest.mark.parametrize("row", ROWS)
def test_its_text_reads_back(row):
    task = parse_task(row.example)
    assert type(task).__module__ + ":" + type(task).__name__ == row.target
    assert isinstance(task, Task)
    assert parse_task(str(task)) == task
    assert str(parse_task(str(task))) == str(task)
    assert dataclasses.is_dataclass(task)
    assert type(task).__dataclass_params__.frozen
    assert row.returns == task.returns
    assert parse_task(task) is task


@pytest.mark.parametrize("row", ROWS)
def test_its_row_and_its_class_agree(row):
    task = parse_task(row.example)
    assert (row.calibrated, row.smooth, row.no_proof) == (task.calibrated, task.smooth, task.no_proof)


@pytest.mark.parametrize(
    "text", ["", "regresion", "regression:", "regression:50", "regression:tolerance", "regression:x=1"]
)
def test_text_that_is_no_task_is_refused(text):
    with pytest.raises(InputError):
        parse_task(text)


@pytest.mark.parametrize("row", ROWS)
def test_no_row_of_its_scores_sees_another(row):
    task, net, inputs, labels = problem(row)
    with torch.no_grad():
        outputs = task.fitted(net(inputs))
    together, right = seen(task, outputs, labels)
    assert together.dim() == 2
    assert len(right) == len(inputs)
    for place in range(len(inputs)):
        one = slice(place, place + 1)
        alone, answer = seen(task, outputs[one], labels[one])
        assert torch.equal(alone, together[one])
        assert torch.equal(answer, right[one])
        assert torch.equal(task.rounding_error(outputs[one], labels[one]), task.rounding_error(outputs, labels)[one])


@pytest.mark.parametrize("row", ROWS)
def test_outputs_that_are_no_numbers_are_no_answer(row):
    task, net, inputs, labels = problem(row)
    with torch.no_grad():
        outputs = task.fitted(net(inputs))
    outputs = outputs.masked_fill(
        torch.zeros_like(outputs, dtype=torch.bool).index_fill_(0, torch.tensor([2]), True), torch.nan
    )
    scores, _ = seen(task, outputs, labels)
    assert scores.amax(1).isfinite().tolist() == [place != 2 for place in range(len(inputs))]
    with pytest.raises(InputError, match="the first at row 2"):
        task.check_clean(outputs)


@pytest.mark.parametrize("row", ROWS)
def test_data_and_records_hold_its_labels(row):
    task, net, inputs, labels = problem(row)
    data = LabelledSet(inputs, labels, task=task)
    assert torch.equal(data.take([1, 3]).labels, labels[[1, 3]])
    assert data.take([1, 3]).task == task
    assert len(data.stratified(5, seed=1)) == 5
    assert LabelledSet(inputs, labels.clone(), task=task).sha256 == data.sha256
    with torch.no_grad():
        outputs = task.fitted(net(inputs))
    told = task.payload(outputs, labels)
    assert len(told) == len(task.described(labels)) == len(inputs)
    assert all(isinstance(value, float) for value in task.summary(outputs, labels).values())


@pytest.mark.parametrize(("row", "one"), PAIRS)
def test_every_attack_serves_it_truly_or_refuses_it_before_the_model_is_asked(row, one):
    task, net, inputs, labels = problem(row)
    kinds = one.norms[:1] or ("brightness",)
    threat = Threat.parse(f"{kinds[0]}:{EPSILON.get(kinds[0], 0.5)}")
    asked = []
    net.register_forward_hook(lambda *_: asked.append(1))
    try:
        found = attack(one.name, wrap(net, task=task), inputs, labels, threat)
    except UnsupportedError:
        assert not asked
        return
    assert torch.equal(found.success, wrong(task, net, found.adversarial, labels))
    around = threat.perturbations.around(inputs, wrap(net, task=task).box)
    assert around.contains(found.theta).all()
    assert found.confidence.isnan().all() or task.calibrated
    if one.needs == "gradients" and one.name not in ("fgsm", "uap"):
        assert found.success.any()


@pytest.mark.parametrize("row", ROWS)
def test_it_is_certified_truly_or_refused_with_its_reason(row):
    task, net, inputs, labels = problem(row)
    if row.no_proof:
        with pytest.raises(UnsupportedError, match="no proof"):
            certify("crown", wrap(net, task=task), inputs, labels, "linf:0.01")
        return
    flat = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))
    model = wrap(net if task.maps else flat, task=task)
    with torch.no_grad():
        outputs = model(inputs)
    told = next(
        labels
        for labels in (make(outputs) for make in LABELS.values())
        if not isinstance(fitting(task, labels, outputs), TrustboundError)
    )
    told = task.checked_labels(told)
    threat = "linf:0.0005" if task.maps else "linf:0.02"
    proof = certify("crown", model, inputs, told, threat)
    found = attack("pgd", model, inputs, told, threat)
    assert not (proof.certified & found.success).any()
    assert proof.certified.any()
    if task.maps:  # their margin is a share, a proof's is of the pixel that decides
        return
    clean, right = seen(task, outputs, told)
    margin = clean.gather(1, right[:, None])[:, 0] - clean.scatter(1, right[:, None], -torch.inf).amax(1)
    assert (proof.margin <= margin + 1e-6).all()


def fitting(task, labels, outputs):
    """The error that labels raise, None where they fit."""
    try:
        task.check_fit(task.checked_labels(labels), tuple(outputs.shape[1:]))
    except TrustboundError as error:
        return error
    return None


def test_a_classification_is_seen_as_it_is():
    task = parse_task(None)
    labels = torch.tensor([1, 0])
    view, right = right_answers(task, labels)
    assert view is None
    assert right is labels
