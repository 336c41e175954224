import math
import subprocess
import sys

import pytest
import torch

from trustbound.errors import InputError
from trustbound.metrics.losses import dlr, f1, f4, f5, f6, loss, margin, probability_margin
from trustbound.metrics.registry import LOSSES

#: Those of errors stand in tests/tasks/test_regression.py.
OF_CLASSES = [row.name for row in LOSSES if row.space != "errors"]

CLASSES = [2, 3, 4, 10]


def softmax(row):
    weights = [math.exp(value - max(row)) for value in row]
    return [weight / sum(weights) for weight in weights]


def best_other(row, label):
    return max(value for index, value in enumerate(row) if index != label)


def softplus(value):
    return math.log1p(math.exp(value))


def oracle_dlr(z, y, t):
    ranked = sorted(z, reverse=True)
    ascent = best_other(z, y) - z[y] if t is None else z[t] - z[y]
    if len(z) < (3 if t is None else 4):
        return ascent
    if t is None:
        return ascent / (ranked[0] - ranked[2])
    return ascent / (ranked[0] - (ranked[2] + ranked[3]) / 2)


def oracle(name, z, y, t):
    """Each loss as its paper prints it (as corrected), on Python floats."""
    p = softmax(z)
    if name == "ce":
        return -math.log(p[y]) if t is None else math.log(p[t])
    if name == "margin":
        return best_other(z, y) - z[y] if t is None else z[t] - best_other(z, t)
    if name == "difference":
        return best_other(z, y) - z[y] if t is None else z[t] - z[y]
    if name == "probability-margin":
        return best_other(p, y) - p[y] if t is None else p[t] - best_other(p, t)
    if name == "soft-margin":
        aim = y if t is None else t
        odds = math.log(sum(math.exp(v) for i, v in enumerate(z) if i != aim)) - z[aim]
        return odds if t is None else -odds
    if name == "scaled-soft-margin":
        heat = (max(z) - sum(z) / len(z)) / 6
        return heat * oracle("soft-margin", [v / heat for v in z], y, t)
    if name == "dlr":
        return oracle_dlr(z, y, t)
    aim = t if t is not None else max((i for i in range(len(z)) if i != y), key=lambda i: z[i])
    printed = {
        "f1": -math.log(p[aim]) - math.log(2),
        "f2": max(best_other(p, aim) - p[aim], 0.0),
        "f3": softplus(best_other(p, aim) - p[aim]) - math.log(2),
        "f4": max(0.5 - p[aim], 0.0),
        "f5": -math.log(2 * p[aim]),
        "f6": max(best_other(z, aim) - z[aim], 0.0),
        "f7": softplus(best_other(z, aim) - z[aim]) - math.log(2),
    }
    return -printed[name]


def batch(classes, rows=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    targets = (labels + torch.randint(1, classes, (rows,), generator=generator)) % classes
    return logits, labels, targets


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", OF_CLASSES)
def test_each_loss_equals_its_formula(name, classes, targeted):
    logits, labels, targets = batch(classes)
    values = loss(name)(logits, labels, targets if targeted else None)
    expected = [
        oracle(name, z, y, t if targeted else None)
        for z, y, t in zip(logits.tolist(), labels.tolist(), targets.tolist(), strict=True)
    ]
    assert values.shape == (60,)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", OF_CLASSES)
def test_gradients_equal_finite_differences(name, classes, targeted):
    logits, labels, targets = batch(classes, rows=8, seed=3)
    chosen = targets if targeted else None
    function = loss(name)
    if name == "scaled-soft-margin":  # its temperature is a constant of the row: that of the unperturbed logits
        heat = ((logits.amax(1) - logits.mean(1)) / 6)[:, None]
        fixed = loss("soft-margin")
        (ours,) = torch.autograd.grad(function(logits.requires_grad_(), labels, chosen).sum(), logits)
        moved = logits.detach().requires_grad_()
        (theirs,) = torch.autograd.grad((heat[:, 0] * fixed(moved / heat, labels, chosen)).sum(), moved)
        torch.testing.assert_close(ours, theirs)
        return
    assert torch.autograd.gradcheck(lambda z: function(z, labels, chosen), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e4, 1e30])
def test_the_scaled_soft_margin_leads_the_same_way_at_every_scale(scale, dtype):
    logits, labels, _ = batch(7)
    slopes = []
    for values in (logits, scale * logits, scale * (logits + 3.0)):
        leaf = values.to(dtype).requires_grad_()
        slopes.append(torch.autograd.grad(loss("scaled-soft-margin")(leaf, labels).sum(), leaf)[0])
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slopes[2], slopes[0], rtol=1e-3, atol=1e-4)
    assert (slopes[0].abs() > 1e-3).sum(1).float().mean() > 2.5  # of more classes than one


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OF_CLASSES)
def test_extreme_logits_give_finite_values_and_gradients(name, dtype, targeted):
    rows = [[1e4, -1e4, 0.0, 5.0], [0.0] * 4, [-1e4] * 4, [1e-30, 0.0, 0.0, 0.0], [7.0, 7.0, 7.0, -7.0]]
    logits = torch.tensor(rows, dtype=dtype).repeat(4, 1).requires_grad_()
    labels = torch.arange(4).repeat_interleave(len(rows))
    values = loss(name)(logits, labels, (labels + 1) % 4 if targeted else None)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert values.dtype == dtype
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", OF_CLASSES)
def test_no_row_sees_another(name, targeted):
    logits, labels, targets = batch(10)
    logits = logits.float().requires_grad_()
    chosen = targets if targeted else None
    values = loss(name)(logits, labels, chosen)
    (gradient,) = torch.autograd.grad(values[7], logits, retain_graph=True)
    assert not gradient[torch.arange(60) != 7].any()
    changed = logits.detach().clone()
    changed[torch.arange(60) != 7] *= -3
    again = loss(name)(changed, labels, chosen)
    assert torch.equal(again[7], values[7].detach())


@pytest.mark.parametrize("name", OF_CLASSES)
def test_every_loss_rises_where_the_adversary_gains(name):
    """Along the straight way from a sure right answer to a sure wrong one no loss ever falls."""
    way = torch.linspace(-3, 3, 61, dtype=torch.float64)
    logits = torch.stack((-way, way, torch.full_like(way, -9.0), torch.full_like(way, -9.5)), dim=1)
    labels = torch.zeros(61, dtype=torch.int64)
    for targets in (None, torch.ones(61, dtype=torch.int64)):
        values = loss(name)(logits, labels, targets)
        assert (values.diff() >= -1e-12).all()
        assert values[30] > values[0]


@pytest.mark.parametrize("name", ["f1", "f2", "f3", "f4", "f5", "f6", "f7"])
def test_carlini_wagner_at_or_above_zero_means_success(name):
    logits, labels, targets = batch(5, rows=4000, seed=5)
    values = loss(name)(logits, labels, targets)
    reached = logits.argmax(1) == targets
    assert not ((values >= 0) & ~reached).any()
    if name in {"f2", "f3", "f6", "f7"}:  # these say it exactly; f1, f4 and f5 ask for probability 1/2
        assert torch.equal(values >= 0, reached)
    assert (values >= 0).any()


def test_f1_and_f5_are_one_function_and_the_printed_forms_are_not_used():
    logits, labels, targets = batch(6)
    assert torch.equal(f1(logits, labels, targets), f5(logits, labels, targets))
    target_probability = logits.softmax(1).gather(1, targets[:, None]).squeeze(1)
    assert torch.equal(f1(logits, labels, targets) >= 0, target_probability >= 0.5)
    assert torch.equal(f4(logits, labels, targets) == 0, target_probability >= 0.5)
    assert (2 * target_probability - 2 < 0).all()  # log of this is what one of the notes prints


def test_f6_without_target_is_the_usual_untargeted_hinge():
    logits, labels, _ = batch(6)
    assert torch.equal(f6(logits, labels), margin(logits, labels).clamp_max(0))


def test_dlr_is_blind_to_scale_and_shift():
    logits, labels, targets = batch(10)
    for scale in (1e-3, 1e3):
        for chosen in (None, targets):
            torch.testing.assert_close(
                dlr(scale * logits + 11, labels, chosen),
                dlr(logits, labels, chosen),
                rtol=1e-9,
                atol=1e-9,
            )
    correct = logits.argmax(1) == labels
    assert ((dlr(logits, labels)[correct] >= -1) & (dlr(logits, labels)[correct] <= 0)).all()
    assert (dlr(logits, labels)[~correct] > 0).all()


def test_dlr_of_two_classes_is_no_constant():
    logits = torch.tensor([[4.0, 0.0], [1.0, 0.0]], requires_grad=True)
    values = dlr(logits, torch.tensor([0, 0]))
    assert values.tolist() == [-4.0, -1.0]  # the printed ratio is -1 for both, without gradient
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert gradient.tolist() == [[-1.0, 1.0], [-1.0, 1.0]]


def test_probability_margin_stays_in_its_interval():
    logits, labels, targets = batch(10, rows=1000)
    for chosen in (None, targets):
        values = probability_margin(50 * logits, labels, chosen)
        assert values.abs().max() <= 1


def test_lookup_and_registry_agree():
    for name in LOSSES.names:
        assert LOSSES.load(name) is loss(name)
    with pytest.raises(InputError, match=r"must be one of ce, margin.*got 'cw'.*Choose"):
        loss("cw")


@pytest.mark.parametrize(
    ("module", "free"), [("trustbound.metrics.registry", True), ("trustbound.metrics.losses", False)]
)
def test_the_registry_imports_no_torch(module, free):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert (subprocess.run([sys.executable, "-c", code], check=False).returncode == 0) is free
