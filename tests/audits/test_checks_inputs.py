"""Checks of the examples: range, lattice, order of labels, number, overlap."""

import itertools

import pytest
import torch
from tests.audits.planted_nets import after, before, blobs, net
from torch import nn

from trustbound.audits.checks.context import Evidence
from trustbound.audits.checks.inputs import InputRange, LabelOrder, SampleSize, TrainTestOverlap
from trustbound.audits.checks.label_order import best_order, usual_mistakes
from trustbound.audits.checks.lattice import levels_of
from trustbound.data.labelled import LabelledSet
from trustbound.model.wrapping import wrap
from trustbound.record.binomial import binomial_interval
from trustbound.record.box import Box

PICTURES = (torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


def ranged(inputs, box=(0.0, 1.0)):
    model = wrap(nn.Flatten(), box=box)
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    return InputRange().look(before(nn.Flatten(), model=model, inputs=inputs, labels=labels))


def test_pictures_in_the_box_pass_with_their_lattice():
    check, finding = ranged(PICTURES)
    assert check.verdict == "PASS"
    assert finding.evidence["lattice"] == 255
    assert "k/255" in check.finding


def test_normalised_pictures_are_named_in_a_unit_box_and_in_a_wide_one():
    moved = (PICTURES - 0.5) / 0.29
    check, finding = ranged(moved)
    assert check.verdict == "FAIL"
    assert finding.value == pytest.approx(float(((moved < 0) | (moved > 1)).float().mean()), abs=1e-6)
    assert "normalised" in check.finding
    assert "mean and std" in check.advice
    assert ranged(moved, (-2.0, 2.0))[0].verdict == "WARN"


def test_eight_bit_values_and_a_box_of_another_scale_are_named():
    check, _ = ranged(PICTURES * 255)
    assert check.verdict == "FAIL"
    assert "8-bit" in check.finding
    assert ranged(PICTURES, (0.0, 255.0))[0].verdict == "WARN"


def test_what_is_no_mistake_passes():
    assert ranged(2 * PICTURES - 1, (-1.0, 1.0))[0].verdict == "PASS"  # centred, uniform: not normalised
    table = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    box = Box(table.min(0).values.numpy(), table.max(0).values.numpy())
    assert ranged(table, box)[0].verdict == "PASS"  # a standardised table with a box per feature
    assert ranged(PICTURES + 5e-7)[0].verdict == "PASS"  # rounding


def test_not_finite_values_are_outside():
    bad = PICTURES.clone()
    bad[0, 0, 0, 0] = torch.nan
    assert ranged(bad)[0].verdict == "FAIL"


@pytest.mark.parametrize(("levels", "found"), [(255, 255), (16, 16), (1, 255), (65535, 65535), (7, None)])
def test_lattices(levels, found):
    whole = torch.randint(0, levels + 1, (50, 9), generator=torch.Generator().manual_seed(2))
    assert levels_of(whole / levels, Box(0.0, 1.0)) == found
    assert levels_of(whole / levels * 4 - 2, Box(-2.0, 2.0)) == found


def test_the_best_order_is_the_best_of_all_orders():
    generator = torch.Generator().manual_seed(4)
    for _ in range(20):
        predictions, labels = torch.randint(0, 4, (2, 30), generator=generator)
        brute = max(
            float((torch.tensor(order)[labels] == predictions).float().mean())
            for order in itertools.permutations(range(4))
        )
        order = best_order(predictions, labels, 4)
        assert sorted(order.tolist()) == [0, 1, 2, 3]
        assert float((order[labels] == predictions).float().mean()) == pytest.approx(brute)
    assert best_order(torch.tensor([2, 2]), torch.tensor([2, 0]), 4).tolist() == [0, 1, 2, 3]  # a tie keeps the order


def test_swapped_classes_fail_and_name_the_swap():
    _, labels = blobs()
    swapped = torch.tensor([0, 2, 1, 3])[labels]
    assert LabelOrder().run(before(net())).verdict == "PASS"
    check, finding = LabelOrder().look(before(net(), labels=swapped))
    assert check.verdict == "FAIL"
    assert finding.evidence["moved"] == ((1, 2), (2, 1))
    assert "1 ← 2" in check.finding


def test_a_model_at_chance_is_a_warning_not_an_order():
    _, labels = blobs()
    check = LabelOrder().run(
        before(net(), labels=labels[torch.randperm(160, generator=torch.Generator().manual_seed(0))])
    )
    assert check.verdict == "WARN"
    assert "commonest" in check.finding


def test_two_classes_and_a_good_model_are_no_alarm():
    _, labels = blobs()
    two = (labels >= 2).long()

    class Half(nn.Module):
        def forward(self, inputs):
            return torch.stack((0.5 - inputs[:, 0], inputs[:, 0] - 0.5), dim=1)

    assert LabelOrder().run(before(Half(), labels=two)).verdict == "PASS"
    assert LabelOrder().run(before(Half(), labels=1 - two)).verdict == "FAIL"


def ordered(predictions, labels, classes):
    """The check's verdict where a model of so many classes answered so."""
    outputs = torch.nn.functional.one_hot(predictions, classes).float()
    inputs = torch.zeros(len(labels), 1)
    return LabelOrder().look(after(nn.Flatten(), Evidence(clean_outputs=outputs), inputs=inputs, labels=labels))


def answered(classes, count, accuracy, confusion, seed):
    """Labels, and answers of a network that is right in a share of cases and wrong in its own way otherwise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    right = torch.rand(count, generator=generator) < accuracy
    if confusion == "anything":
        wrong = (labels + torch.randint(1, classes, (count,), generator=generator)) % classes
    elif confusion == "a favourite":  # each class has one that it is mostly taken for
        wrong = (labels + torch.randint(1, classes, (classes,), generator=generator)[labels]) % classes
    else:  # a network that was stopped early names some classes never
        named = max(1, round(accuracy * classes))
        others = torch.randint(0, named, (classes,), generator=generator)
        return labels, torch.where(labels < named, labels, others[labels])
    return labels, torch.where(right, labels, wrong)


@pytest.mark.parametrize("confusion", ["anything", "a favourite", "never named"])
@pytest.mark.parametrize("accuracy", [0.4, 0.6, 0.99])
@pytest.mark.parametrize(("classes", "count"), [(2, 60), (10, 12), (10, 100), (26, 200), (100, 200), (200, 400)])
def test_honest_mistakes_are_no_other_order_of_classes(classes, count, accuracy, confusion):
    for seed in range(3):
        labels, predictions = answered(classes, count, accuracy, confusion, seed)
        check, finding = ordered(predictions, labels, classes)
        assert check.verdict != "FAIL", finding.finding
        if accuracy > 0.5 and classes > 2:
            assert check.verdict == "PASS", finding.finding


@pytest.mark.parametrize(("count", "accuracy"), [(300, 0.4), (1000, 0.7), (3000, 0.99)])
def test_a_thousand_classes_with_few_examples_each_are_no_alarm(count, accuracy):
    labels, predictions = answered(1000, count, accuracy, "a favourite", seed=1)
    check, _ = ordered(predictions, labels, 1000)
    assert check.verdict == "PASS"
    assert "too few examples to tell two classes" in check.finding


@pytest.mark.parametrize("accuracy", [0.4, 0.9])
@pytest.mark.parametrize(("classes", "count"), [(10, 300), (100, 400), (1000, 1000)])
@pytest.mark.parametrize("mistake", range(6))
def test_the_usual_mistakes_fail_with_few_examples_a_class(classes, count, accuracy, mistake):
    orders = list(usual_mistakes(classes).values())
    order = orders[mistake % len(orders)]
    labels, predictions = answered(classes, count, accuracy, "anything", seed=mistake)
    check, finding = ordered(predictions, order[labels], classes)  # the data's label is another than the model's
    assert check.verdict == "FAIL", finding.finding
    assert finding.value > 0.2


@pytest.mark.parametrize(("classes", "count"), [(2, 60), (10, 200), (26, 1000)])
def test_two_exchanged_classes_are_found_and_named(classes, count):
    labels, predictions = answered(classes, count, 0.95, "anything", seed=5)
    order = torch.arange(classes)
    order[0], order[1] = 1, 0
    check, finding = ordered(predictions, order[labels], classes)
    assert check.verdict == "FAIL", finding.finding
    assert finding.evidence["moved"] == ((0, 1), (1, 0))
    assert finding.value == pytest.approx(2 / classes * 0.95, abs=0.25 if classes == 2 else 0.1)


def test_any_order_is_learnt_where_each_class_has_examples():
    order = torch.randperm(100, generator=torch.Generator().manual_seed(8))
    labels, predictions = answered(100, 800, 0.8, "a favourite", seed=2)
    assert ordered(predictions, order[labels], 100)[0].verdict == "FAIL"


def test_too_few_examples_to_tell_an_order_are_a_warning_that_says_so():
    labels, predictions = answered(1000, 60, 0.9, "anything", seed=3)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(9))
    check, _ = ordered(predictions, order[labels], 1000)
    assert check.verdict == "WARN"
    assert "too few examples to tell another order" in check.finding
    assert ordered(torch.tensor([3]), torch.tensor([5]), 10)[0].verdict == "WARN"
    assert ordered(torch.tensor([5]), torch.tensor([5]), 10)[0].verdict == "PASS"


def test_an_order_is_judged_on_examples_that_did_not_choose_it():
    # Answers at random: the best of all orders fits them well, and on other examples it fits nothing.
    generator = torch.Generator().manual_seed(6)
    labels, predictions = torch.randint(0, 200, (2, 400), generator=generator)
    fitted = best_order(predictions, labels, 200)[labels] == predictions
    assert float(fitted.float().mean()) > 0.3
    check, finding = ordered(predictions, labels, 200)
    assert (check.verdict, finding.value) == ("WARN", 0.0)


def test_sample_size_is_the_exact_interval_over_the_claim():
    module = net()
    inputs, labels = blobs()
    outputs = module(inputs).detach()
    broken = (torch.arange(160) < 40) & (outputs.argmax(1) == labels)
    context = after(module, Evidence(clean_outputs=outputs, broken=broken))
    unbroken = int(((outputs.argmax(1) == labels) & ~broken).sum())
    low, high = binomial_interval(unbroken, 160)
    finding = SampleSize(precision=0.02).measure(context)
    assert finding.value == pytest.approx((high - low) / 2 / 0.02)
    assert SampleSize(precision=0.02).run(context).verdict == "WARN"
    assert SampleSize(precision=0.2).run(context).verdict == "PASS"
    assert SampleSize(precision=0.01).run(context).verdict == "FAIL"


def test_overlap_is_counted_by_value():
    inputs, labels = blobs()
    training = LabelledSet(torch.cat((inputs[:3], 1 - inputs[10:50])), torch.zeros(43, dtype=torch.int64))
    check, finding = TrainTestOverlap().look(before(net(), training=training))
    assert finding.evidence["rows"] == [0, 1, 2]
    assert check.verdict == "WARN"
    assert TrainTestOverlap().run(before(net(), training=LabelledSet(inputs, labels))).verdict == "FAIL"
    assert TrainTestOverlap().run(before(net(), training=LabelledSet(1 - inputs, labels))).verdict == "PASS"
    assert TrainTestOverlap().run(before(net())).verdict == "SKIP"
    few = before(net(), training=training)
    assert TrainTestOverlap().run(few.select(torch.arange(2, 12))).verdict == "WARN"  # 1 of 10 is no share of 2 %
    other = LabelledSet(torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64))
    check = TrainTestOverlap().run(before(net(), training=other))
    assert check.verdict == "WARN"
    assert check.finding.startswith("could not be measured: ")
