"""Checks of the examples: range, lattice, order of labels, number, overlap."""

import itertools

import pytest
import torch
from tests.audits.planted_nets import after, before, blobs, net
from torch import nn

from trustbound.audits.checks.context import Evidence
from trustbound.audits.checks.inputs import InputRange, LabelOrder, SampleSize, TrainTestOverlap, best_order
from trustbound.audits.checks.lattice import levels_of
from trustbound.data.labelled import LabelledSet
from trustbound.model.wrapping import wrap
from trustbound.record.box import Box
from trustbound.record.interval import binomial_interval

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
        given, best, _ = best_order(predictions, labels, 4)
        assert best == pytest.approx(brute)
        assert given == pytest.approx(float((predictions == labels).float().mean()))


def test_swapped_classes_fail_and_name_the_swap():
    _, labels = blobs()
    swapped = torch.tensor([0, 2, 1, 3])[labels]
    assert LabelOrder().run(before(net())).verdict == "PASS"
    check, finding = LabelOrder().look(before(net(), labels=swapped))
    assert check.verdict == "FAIL"
    assert finding.evidence["moved"] == [(1, 2), (2, 1)]
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
