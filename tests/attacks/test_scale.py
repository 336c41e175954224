"""Logits of any scale look ordinary to a surrogate, exactly, and ordinary ones are left alone."""

import pytest
import torch

import trustbound as tb
from trustbound.attacks.model_access.compiled import SurrogateLoss
from trustbound.attacks.model_access.logit_scale import LEAST, MOST, logit_scales, scale_for, spread
from trustbound.metrics.losses import loss
from trustbound.model.exact import linear_classifier

LOGITS = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)) * 5
LABELS = torch.arange(20) % 7


def test_the_spread_is_blind_to_shifts_and_follows_the_scale():
    assert torch.allclose(spread(LOGITS + 1e3), spread(LOGITS), rtol=1e-3)
    assert torch.equal(spread(2.0**-40 * LOGITS), 2.0**-40 * spread(LOGITS))
    assert spread(torch.tensor([[2.0, 0.0, -torch.inf]])).item() == 1.0


def test_ordinary_spreads_have_unit_one_and_others_become_ordinary():
    for value in (LEAST, 0.1, 1.0, 30.0, MOST):
        assert scale_for(value) == 1.0
    for value in (1e-30, 1e-9, 1e-4, 1e4, 1e9, 1e30):
        assert LEAST < scale_for(value) * value < MOST
        assert torch.tensor(scale_for(value)).log2() % 1 == 0
    for value in (0.0, -1.0, float("nan"), float("inf")):
        assert scale_for(value) == 1.0
    assert logit_scales(LOGITS) is None
    assert torch.equal(logit_scales(2.0**-40 * LOGITS) * 2.0**-80, logit_scales(2.0**40 * LOGITS))


@pytest.mark.parametrize("name", ["ce", "probability-margin", "soft-margin", "margin", "dlr"])
@pytest.mark.parametrize("power", [-30, 30])
def test_a_surrogate_of_scaled_logits_is_as_alive_as_that_of_ordinary_ones(name, power):
    scaled = (2.0**power * LOGITS).requires_grad_()
    value = SurrogateLoss(name, LABELS, logit_scale=logit_scales(scaled))(scaled, slice(None))
    (slope,) = torch.autograd.grad(value.sum(), scaled)
    plain = LOGITS.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(name)(plain, LABELS, None).sum(), plain)
    alive = wanted.abs().amax(1) > 1e-3
    assert bool((slope.abs().amax(1)[alive] > 0).all())
    # The same at the other end, bit for bit.
    other = (2.0**-power * LOGITS).requires_grad_()
    (twin,) = torch.autograd.grad(
        SurrogateLoss(name, LABELS, logit_scale=logit_scales(other))(other, slice(None)).sum(), other
    )
    if name != "dlr":  # which is blind to the scale: its slope is not
        assert torch.equal(slope, twin)
    if name == "margin":
        assert torch.equal(slope, wanted)
        assert torch.equal(value, loss(name)(scaled, LABELS, None))


@pytest.mark.parametrize("name", ["ce", "probability-margin", "soft-margin"])
def test_a_row_at_the_boundary_is_not_blind_further_away(name):
    """Of two classes the clean margin says how near a row is, not how large the network's logits are."""
    unit = logit_scales(torch.tensor([[1e-6, 0.0], [1e-6, 0.0]]))
    away = torch.tensor([[3.0, 0.0], [1e-6, 0.0]]).requires_grad_()
    surrogate = SurrogateLoss(name, torch.tensor([0, 0]), logit_scale=unit)
    (slope,) = torch.autograd.grad(surrogate(away, slice(None)).sum(), away)
    assert bool((slope[:, 1] > 0).all())
    # Values are as they were, so that points compare in one order; a row that is not saturated keeps its bits.
    plain = loss(name)(away * unit.float()[:, None], torch.tensor([0, 0]), None) / unit.float()
    assert torch.equal(surrogate(away, slice(None)), plain)
    far = torch.tensor([[3.0, 0.0]]).requires_grad_()
    lone = SurrogateLoss(name, torch.tensor([0]), logit_scale=unit[:1])
    assert torch.equal(torch.autograd.grad(lone(far, slice(None)).sum(), far)[0], slope[:1])


@pytest.mark.parametrize("name", ["pgd", "apgd", "fgsm"])
def test_examples_next_to_the_boundary_of_two_classes_are_the_first_to_break(name):
    """Half of the random starts lie further away, where cross-entropy at the clean row's scale has no gradient."""
    weight = 4.0 * torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    exact = linear_classifier(weight, torch.zeros(2), box=(-2.0, 2.0))
    normal = weight[0] - weight[1]
    inputs = 0.4 * torch.rand(40, 20, generator=torch.Generator().manual_seed(1)) - 0.2
    inputs -= ((inputs @ normal - 1e-3) / (normal @ normal))[:, None] * normal
    labels = torch.zeros(40, dtype=torch.int64)
    assert exact.exact_radius(inputs, labels, "linf").max() < 1e-3
    more = {} if name == "fgsm" else {"steps": 10, "loss": "ce"}
    found = tb.attack(name, exact.model, inputs, labels, "linf:0.02", **more)
    assert bool(found.success.all())
