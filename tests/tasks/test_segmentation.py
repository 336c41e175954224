"""Segmentation: what is counted, what is climbed, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import trustbound as tb
from trustbound.errors import InputError, UnsupportedError
from trustbound.tasks import Segmentation


def maps(count=5, classes=3, side=4, seed=0):
    """Outputs and labels, a tenth of the pixels without a label."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, classes, side, side, generator=generator)
    labels = torch.randint(0, classes, (count, side, side), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return outputs, labels


def counted(outputs, labels, ignore=255):
    """The share of labelled pixels that are right, by hand."""
    shares = []
    for said, wanted in zip(outputs.detach().numpy(), labels.numpy(), strict=True):
        pixels = [(r, c) for r in range(wanted.shape[0]) for c in range(wanted.shape[1]) if wanted[r, c] != ignore]
        shares.append(sum(int(np.argmax(said[:, r, c])) == wanted[r, c] for r, c in pixels) / len(pixels))
    return torch.tensor(shares, dtype=torch.float64)


def test_the_margin_is_counted_and_its_slope_is_that_of_the_masked_cross_entropy():
    outputs, labels = maps()
    task = Segmentation(min_accuracy=0.4)
    outputs.requires_grad_(True)
    scores = task.scores(outputs, labels)
    assert torch.equal(scores[:, 0], counted(outputs, labels) - 0.4)
    assert torch.equal(scores[:, 1], torch.zeros(5, dtype=torch.float64))
    (slope,) = torch.autograd.grad(scores[:, 0].sum(), outputs)
    known = labels != 255
    right = (outputs.argmax(1) == labels) & known
    each = functional.cross_entropy(outputs, labels, ignore_index=255, reduction="none")
    climbed = ((each * right).flatten(1).sum(1) / known.flatten(1).sum(1)).sum()
    (wanted,) = torch.autograd.grad(climbed, outputs)
    assert torch.allclose(slope, -wanted, atol=1e-7)
    assert (slope.abs().sum(1)[~right] == 0).all()
    assert (slope.abs().sum(1)[right] > 0).all()


def test_intersection_over_union_and_pixel_accuracy_by_hand():
    labels = torch.tensor([[[0, 0], [1, 255]]])
    said = torch.tensor([[[0, 1], [1, 1]]])
    outputs = functional.one_hot(said, 3).movedim(-1, 1).float()
    found = Segmentation().summary(outputs, labels)
    assert found["pixel accuracy"] == pytest.approx(2 / 3)
    assert found["mean IoU"] == pytest.approx((1 / 2 + 1 / 2) / 2)  # class 2 does not occur


def test_pixels_that_rounding_may_turn_make_a_tie():
    outputs, labels = maps(count=1)
    task = Segmentation(min_accuracy=0.5)
    assert task.rounding_error(outputs, labels).tolist() == [0.0]
    outputs[0, :, 0, 0] = 1.0  # two largest alike
    labels[0, 0, 0] = 0
    assert task.rounding_error(outputs, labels).tolist() == [1 / int((labels != 255).sum())]
    half = task.rounding_error(outputs.half(), labels, torch.bfloat16)
    assert half >= task.rounding_error(outputs, labels)


class Net(nn.Module):
    """A small fully convolutional network; a pixel's class is the largest of three filtered copies of it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, inputs):
        return self.last(torch.tanh(3 * self.first(inputs) - 1))


def task(min_accuracy=0.8, count=10):
    model = tb.wrap(Net(), task=Segmentation(min_accuracy=min_accuracy))
    inputs = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    labels[:, 0, :3] = 255
    return model, inputs, labels


@pytest.mark.parametrize("name", ["pgd", "apgd", "margin-pgd", "square", "fgsm"])
@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.8"])
def test_attacks_lower_the_share_and_every_success_is_counted_anew(name, threat):
    model, inputs, labels = task()
    found = tb.attack(name, model, inputs, labels, threat)
    shares = counted(model(found.adversarial), labels)
    assert torch.equal(found.success, shares < 0.8)
    assert found.success.any()
    assert torch.allclose(found.margin[found.success].double(), shares[found.success] - 0.8, atol=1e-6)


def test_what_the_threshold_says_decides():
    model, inputs, labels = task()
    broken = []
    for least in (0.05, 0.5, 0.9, 1.0):
        ours = tb.wrap(model.module, task="segmentation", min_accuracy=least)
        broken.append(int(tb.attack("pgd", ours, inputs, labels, "linf:0.05").success.sum()))
    assert broken == sorted(broken)
    assert broken[0] < broken[-1] == 10


def test_decisions_are_classes_of_pixels():
    model, inputs, labels = task(0.9)
    found = tb.attack("hopskipjump", model, inputs, labels, "linf:0.3;access=decisions", steps=3)
    assert torch.equal(found.success, counted(model(found.adversarial), labels) < 0.9)
    assert found.success.any()


def test_attacks_that_need_a_linear_margin_are_refused_before_the_model_is_asked():
    model, inputs, labels = task()
    model.module.register_forward_hook(lambda *_: pytest.fail("asked"))
    for name in ("fab", "fab-t", "fmn", "ddn", "boundary-walk", "uap"):
        with pytest.raises(UnsupportedError, match="that of segmentation is counted and has no slope of its own"):
            tb.attack(name, model, inputs, labels, "l2:0.5")
    with pytest.raises(UnsupportedError, match="names classes"):
        tb.attack("pgd", model, inputs, labels, "l2:0.5;goal=target:1")


@pytest.mark.parametrize("least", [0, 1.5, -0.1, float("nan"), True, "much"])
def test_shares_that_decide_nothing_are_refused(least):
    with pytest.raises(InputError, match="`min_accuracy` must be a share"):
        Segmentation(min_accuracy=least)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.zeros(2, 4, dtype=torch.int64), r"maps \(B, H, W\)"),
        (torch.zeros(2, 4, 4), "whole class numbers; got torch.float32"),
        (torch.full((2, 4, 4), -1), r"classes ≥ 0, or 255 for pixels without a label; got -1.*ignore=-1"),
        (torch.full((2, 4, 4), 255), "needs a labelled pixel; 2 have none, the first at row 0"),
    ],
)
def test_labels_that_are_no_maps_are_refused(labels, said):
    with pytest.raises(InputError, match=said):
        tb.LabelledSet(torch.rand(2, 1, 4, 4), labels, task="segmentation")


def test_labels_that_do_not_belong_to_the_model_are_refused():
    model, inputs, labels = task()
    for wrong, said in ((labels[:, :4], "a label for each pixel"), (labels.masked_fill(labels == 1, 7), r"0\.\.2")):
        for call in (
            lambda wrong=wrong: tb.attack("pgd", model, inputs, wrong, "linf:0.1"),
            lambda wrong=wrong: tb.audit(
                model, tb.LabelledSet(inputs, wrong, task="segmentation"), ["linf:0.1"], budget="quick"
            ),
        ):
            with pytest.raises(InputError, match=said):
                call()


def test_another_number_for_no_label():
    model, inputs, labels = task()
    ours = tb.wrap(model.module, task="segmentation:min_accuracy=0.8,ignore=-1")
    same = labels.masked_fill(labels == 255, -1)
    data = tb.LabelledSet(inputs, same, task="segmentation:ignore=-1")
    found = tb.attack("pgd", ours, data.inputs, data.labels, "linf:0.1")
    assert torch.equal(found.adversarial, tb.attack("pgd", model, inputs, labels, "linf:0.1").adversarial)


def test_a_map_with_a_hole_is_no_answer():
    outputs, labels = maps(count=2)
    outputs[1, 2, 0, 0] = torch.nan
    scores = Segmentation(min_accuracy=0.5).scores(outputs, labels)
    assert scores[0].isfinite().all()
    assert scores[1, 0].isnan()


def test_a_map_of_a_classifier_is_refused_with_the_task_that_takes_it():
    model, inputs, _ = task()
    with pytest.raises(InputError, match="each pixel a class is a segmentation: task='segmentation:min_accuracy"):
        tb.attack("pgd", model.module, inputs, torch.zeros(10, dtype=torch.int64), "linf:0.1")


def test_an_audit_says_which_bound_cannot_exist_and_shows_the_maps(tmp_path):
    from trustbound.report import read_gallery

    model, inputs, labels = task(0.8, count=40)
    data = tb.LabelledSet(inputs, labels, class_names=("ground", "leaf", "root"), task="segmentation")
    record = tb.audit(model, data, ["linf:0.06", "brightness:0.2"], budget="quick", run=tmp_path)
    assert record.exit_code == 0
    for found in record.brackets:
        assert not found.no_proof
        assert 0.0 < found.lower <= found.upper
    assert 0 < record.brackets[0].broken < 40
    assert record.measures["clean"] == {"pixel accuracy": 1.0, "mean IoU": 1.0}
    assert record.measures["linf:0.06"]["pixel accuracy"] < 1.0
    for row in record.examples:
        assert (row.verdict == "broken") == ("adversarial_accuracy" in row.detail)
        assert row.detail.get("adversarial_accuracy", 0.0) < 0.8
    gallery = read_gallery(tmp_path)
    key = record.gallery[0].key
    assert gallery[f"clean-label/{key}"].shape == gallery[f"adversarial-prediction/{key}"].shape == (8, 8)
    share = record.gallery[0].detail["adversarial_accuracy"]
    known = gallery[f"clean-label/{key}"] != 255
    same = gallery[f"adversarial-prediction/{key}"] == gallery[f"clean-label/{key}"]
    assert same[known].mean() == pytest.approx(share)
    assert {check.name: check.verdict for check in record.checks}["finite-differences"] == "SKIP"
    page = tb.write_report(record, tmp_path / "page.html", gallery=gallery).read_text()
    for said in ("said of the adversarial", "mean IoU", "segmented well enough", "leaf"):
        assert said in page


def test_examples_one_pixel_above_the_threshold_have_gradients_at_every_step():
    """Their counted margin says how near they are; the search is not blind where a step wins a pixel back."""
    model, inputs, labels = task(0.8, count=40)
    known = (labels != 255).flatten(1)
    for row, pixels in zip(labels.flatten(1), known, strict=True):
        wrong = pixels.nonzero()[:12, 0]  # of 61: 49 are right, a share of 0.803
        row[wrong] = (row[wrong] + 1) % 3
    data = tb.LabelledSet(inputs, labels, task="segmentation")
    record = tb.audit(model, data, ["linf:0.03"], budget="standard", curve_examples=0)
    assert {example.detail["accuracy"] for example in record.examples} == {49 / 61}
    (rate,) = [check for check in record.checks if check.name == "gradient-rate"]
    assert rate.verdict == "PASS", rate.finding
    assert " 0 had a zero gradient" in rate.finding


def linear_map():
    """Two classes at each of four pixels, of which a pixel of the input decides alone: x > 1/2."""
    net = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-1.0], [1.0]]).reshape(2, 1, 1, 1))
        net.bias.copy_(torch.tensor([1.0, 0.0]))
    inputs = torch.tensor([[[[0.9, 0.8], [0.7, 0.6]]]]).repeat(2, 1, 1, 1)
    labels = torch.ones(2, 2, 2, dtype=torch.int64)
    labels[1, 0, 0] = 255
    return net, inputs, labels


@pytest.mark.parametrize(
    ("share", "limits"), [(0.5, (0.3, 0.2)), (0.75, (0.2, 0.1)), (1.0, (0.1, 0.1)), (0.2, (0.4, 0.3))]
)
@pytest.mark.parametrize("name", ["interval", "crown"])
def test_a_map_is_certified_up_to_the_size_at_which_too_few_pixels_are_left(share, limits, name):
    """All pixels move together: of four (of three, in the second) those farthest from 1/2 are the last to turn."""
    net, inputs, labels = linear_map()
    for offset, told in ((-1e-3, True), (1e-3, False)):
        sizes = torch.tensor(limits, dtype=torch.float64) + offset
        found = tb.certify(
            name, net, inputs, labels, "linf:1", sizes=sizes, box=(0, 1), task=Segmentation(min_accuracy=share)
        )
        assert found.certified.tolist() == [told, told]
        torch.testing.assert_close(found.margin, torch.full((2,), -2.0 * offset).double(), atol=1e-5, rtol=0)


def test_enough_pixels_are_as_many_as_the_count_of_shares_asks_for():
    for pixels in (1, 3, 7, 10, 30):
        labels = torch.zeros(1, 1, pixels, dtype=torch.int64)
        for share in (1 / 3, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1e-9):
            task = Segmentation(min_accuracy=share)
            enough = int(task.requirement(labels, 2 * pixels).enough)
            for right in range(pixels + 1):
                outputs = torch.zeros(1, 2, 1, pixels)
                outputs[0, 0, 0, :right], outputs[0, 1, 0, right:] = 1.0, 1.0
                assert bool(task.scores(outputs, labels)[0, 0] >= 0) is (right >= enough)


@pytest.mark.parametrize("name", ["interval", "crown", "alpha-crown"])
def test_no_attack_breaks_a_map_that_is_certified(name):
    model, inputs, labels = task(0.8, count=12)
    sizes = torch.linspace(0.0, 0.03, 12, dtype=torch.float64)
    found = tb.certify(name, model, inputs, labels, "linf:1", sizes=sizes)
    assert 2 <= int(found.certified.sum()) < 12
    for row in found.certified.nonzero()[:, 0].tolist():
        at, size = slice(row, row + 1), float(sizes[row])
        for attack in ("pgd", "apgd"):
            broken = tb.attack(attack, model, inputs[at], labels[at], f"linf:{size}", steps=20)
            assert not bool(broken.success)


def test_a_pixel_too_few_is_certified_wrongly_and_broken(monkeypatch):
    net, inputs, labels = linear_map()
    kept = Segmentation.requirement

    def short(task, *given):
        found = kept(task, *given)
        return dataclasses.replace(found, enough=found.enough - 1)

    asked = {"box": (0, 1), "task": Segmentation(min_accuracy=0.75)}
    assert not tb.certify("crown", net, inputs, labels, "linf:0.25", **asked).certified.any()
    monkeypatch.setattr(Segmentation, "requirement", short)
    assert tb.certify("crown", net, inputs[:1], labels[:1], "linf:0.25", **asked).certified.all()
    assert tb.attack("pgd", tb.wrap(net, task=asked["task"]), inputs[:1], labels[:1], "linf:0.25").success.all()


def test_maps_that_would_fill_the_memory_are_refused_by_their_size():
    labels = torch.zeros(1, 128, 128, dtype=torch.int64)
    with pytest.raises(UnsupportedError, match="no proof: maps of 16,384 pixels and 3 classes would take"):
        Segmentation(min_accuracy=0.5).requirement(labels, 3 * 128 * 128)
