"""Patches: what a square may do, how it is measured, and the searches that move what it shows."""

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.attacks.registry import ATTACKS
from trustbound.attacks.suites import suite
from trustbound.errors import InputError, UnsupportedError
from trustbound.threat import Random, Threat
from trustbound.threat.sets.patch import Patch

BOX = (0.0, 1.0)


def pictures(count=6, channels=2, height=6, width=9):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(3))


def around(side, inputs, radius=None, box=BOX):
    return Patch(side).around(inputs, box, radius)


def net():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 7, 3))
    return tb.wrap(body, box=BOX, input_shape=(2, 6, 9), classes=3)


def test_text_reads_back_and_what_is_no_square_is_refused():
    assert str(Threat.parse("patch:5;access=scores")) == "patch:5;access=scores"
    assert Threat.parse("patch:3").perturbations == Patch(3)
    for text, said in (("patch:2.5", "whole number of pixels"), ("patch:inf", "whole number"), ("patch", "patch:5")):
        with pytest.raises(InputError, match=said):
            Threat.parse(text)
    with pytest.raises(InputError, match="patch joined with others"):
        Threat.parse("patch:3,rotation:5")
    with pytest.raises(InputError, match="patch must be at most 6 pixels"):
        around(7, pictures())
    with pytest.raises(InputError, match="patch moves the pixels of pictures"):
        around(2, torch.rand(3, 10))


def test_nothing_changed_is_the_same_picture_and_starts_change_one_square_anywhere():
    inputs = pictures(400)
    ours = around(3, inputs)
    assert torch.equal(ours.apply(ours.origin()), inputs)
    assert torch.equal(ours.size(ours.origin()), torch.zeros(400, dtype=torch.float64))
    theta = ours.start(Random(1, torch.arange(400)), 0)
    assert bool(ours.contains(theta).all())
    changed = (ours.apply(theta) != inputs).any(1)
    assert bool((changed.flatten(1).sum(1) == 9).all())
    assert {tuple(row) for row in theta[:, :2].int().tolist()} == {
        (row, column) for row in range(4) for column in range(7)
    }
    alone = ours.select(torch.tensor([5])).start(Random(1, torch.tensor([5])), 0)
    assert torch.equal(alone[0], theta[5])


def test_membership_is_told_from_theta():
    inputs = pictures()
    ours = around(3, inputs)
    theta = ours.start(Random(0, torch.arange(6)), 0)
    for column, value in ((0, 0.5), (0, 4.0), (1, -1.0), (7, 1.25), (7, float("nan"))):
        wrong = theta.clone()
        wrong[:, column] = value
        assert not bool(ours.contains(wrong).any())
    small = around(3, inputs, radius=2.0)
    assert not bool(small.contains(theta).any())
    inside = small.project(theta.clone())
    assert bool(small.contains(inside).all())
    assert torch.equal(small.size(inside), torch.full((6,), 2.0, dtype=torch.float64))
    assert bool(((small.apply(inside) != inputs).any(1).flatten(1).sum(1) == 4).all())
    assert torch.equal(small.at(torch.float64).apply(inside.double()), small.apply(inside).double())
    assert bool(around(0, inputs).contains(around(0, inputs).origin()).all())


def test_each_channel_keeps_to_its_own_limits():
    low, high = torch.tensor([0.0, -1.0]), torch.tensor([1.0, 3.0])
    box = tb.Box(low.reshape(2, 1, 1).numpy(), high.reshape(2, 1, 1).numpy())
    inputs = low.reshape(1, 2, 1, 1) + pictures() * (high - low).reshape(1, 2, 1, 1)
    ours = around(3, inputs, box=box)
    theta = ours.project(ours.origin() + 100.0)
    seen = ours.apply(theta)[:, :, 3:6, 6:9]
    assert torch.equal(seen, high.reshape(1, 2, 1, 1).expand_as(seen))


@pytest.mark.parametrize("name", [row.name for row in ATTACKS if row.any_set])
def test_every_search_serves_patches_at_any_batch_size(name):
    model, inputs = net(), pictures()
    labels = model(inputs).argmax(1)
    params = {} if name in ("fgsm", "grid") else {"steps": 8}
    runs = [tb.attack(name, model, inputs, labels, "patch:4", batch_size=size, **params) for size in (6, 1)]
    assert torch.equal(runs[0].success, runs[1].success)
    changed = (runs[0].adversarial != inputs).any(1)
    assert bool((changed.flatten(1).sum(1) <= 16).all())
    assert bool((runs[0].size <= 4.0).all())
    if name in ("pgd", "apgd", "margin-pgd", "random"):
        assert int(runs[0].success.sum()) >= 3


def test_who_needs_a_norm_and_who_proves_none_say_so():
    model, inputs = net(), pictures()
    with pytest.raises(UnsupportedError, match=r"fmn serves l.*; the threat is patch"):
        tb.attack("fmn", model, inputs, torch.zeros(6, dtype=torch.int64), "patch:4")
    with pytest.raises(UnsupportedError, match=r"no proof: crown serves .*; got patch. Take ablation.$"):
        tb.certify("crown", model, inputs, torch.zeros(6, dtype=torch.int64), "patch:4")
    assert [stage.name for stage in suite("standard", Threat.parse("patch:4"))][:2] == ["draws", "placed"]
