"""CLEVER: exact where gradients are constant, a fit that finds the end of a sample, and its known failure."""

import inspect
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, weibull_max
from torch import nn

import trustbound as tb
from trustbound.certificates.registry import CERTIFIERS
from trustbound.certificates.sensitivity.extreme_values import fit_reverse_weibull
from trustbound.errors import InputError, UnsupportedError
from trustbound.model.defences.quantisation import Quantise


@pytest.mark.parametrize("shape", [1.5, 3.0, 8.0])
@pytest.mark.parametrize("scale", [1e-3, 5.0])
def test_the_fit_finds_where_a_reverse_weibull_sample_ends(shape, scale):
    maxima = weibull_max.rvs(shape, loc=2.0, scale=scale, size=4000, random_state=1)
    found = fit_reverse_weibull(maxima)
    assert found.location == pytest.approx(2.0, abs=0.12 * scale)
    assert found.location > maxima.max()
    assert found.shape == pytest.approx(shape, rel=0.2)
    assert found.scale == pytest.approx(scale, rel=0.15)
    assert found.p_value > 0.05
    # No other end of the same sample is likelier, by the distribution's own formula.
    best = weibull_max.logpdf(maxima, found.shape, found.location, found.scale).sum()
    assert best >= weibull_max.logpdf(maxima, shape, 2.0, scale).sum() - 1e-6


def test_a_sample_of_another_kind_is_seen_in_the_p_value():
    two = np.concatenate([norm.rvs(size=500, random_state=0), 30 + norm.rvs(size=500, random_state=1)])
    assert fit_reverse_weibull(two).p_value < 1e-6
    flat = fit_reverse_weibull(np.full(20, 3.0))
    assert (flat.location, flat.p_value) == (3.0, 1.0)


DUAL = {"linf": 1, "l2": 2, "l1": math.inf}


@pytest.mark.parametrize(("kind", "most"), [("linf", 0.9), ("l2", 0.9), ("l1", 4.0)])
def test_on_a_linear_classifier_the_estimate_is_the_distance(kind, most):
    torch.manual_seed(0)
    linear = nn.Linear(5, 4).double()
    inputs = torch.rand(6, 5, dtype=torch.float64)
    logits = linear(inputs).detach()
    labels = logits.argmax(1)
    labels[0] = logits[0].argmin()
    found = tb.clever(linear, inputs, labels, f"{kind}:{most}", batches=5, draws=3)
    gaps = logits.gather(1, labels[:, None]) - logits
    weights = linear.weight.detach()
    lengths = torch.linalg.vector_norm(weights[labels][:, None] - weights[None], DUAL[kind], 2)
    ratios = (gaps / lengths).masked_fill(nn.functional.one_hot(labels, 4).bool(), math.inf)
    assert found.distance[0] == 0
    torch.testing.assert_close(found.distance[1:], ratios[1:].amin(1).clamp(max=most), rtol=1e-9, atol=0)
    assert torch.equal(found.target[1:], ratios[1:].argmin(1))
    assert (found.p_value[1:] == 1).all()
    # Three classes, 15 points each, for the five that are classified rightly, and the clean answers.
    assert (found.cost.forwards, found.cost.backwards) == (5 * 3 * 15 + 6, 5 * 3 * 15)


def small():
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    inputs = torch.rand(8, 6)
    return tb.wrap(module), inputs, module(inputs).argmax(1)


def test_the_estimate_hangs_on_key_and_example_alone_and_leaves_no_trace():
    model, inputs, labels = small()
    before = torch.get_rng_state()

    def once(rows=slice(None), seed=0, **given):
        generator = torch.Generator().manual_seed(seed)
        return tb.clever(model, inputs[rows], labels[rows], "l2:0.5", batches=8, draws=16, generator=generator, **given)

    whole = once()
    torch.testing.assert_close(once(batch_size=5).distance, whole.distance, rtol=1e-3, atol=0)
    torch.testing.assert_close(once(rows=slice(0, 3)).distance, whole.distance[:3], rtol=1e-3, atol=0)
    assert torch.equal(once().distance, whole.distance)
    assert not torch.equal(once(seed=1).distance, whole.distance)
    near = once(nearest=1)
    assert near.cost.backwards == whole.cost.backwards / 2
    assert (near.distance >= whole.distance).all()
    assert torch.equal(before, torch.get_rng_state())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_it_lies_near_what_proofs_and_attacks_leave_open_but_promises_nothing():
    model, inputs, labels = small()
    found = tb.clever(model, inputs, labels, "l2:1", batches=20, draws=64)
    assert (found.lipschitz > 0).all()
    assert ((found.p_value >= 0) & (found.p_value <= 1)).all()
    ddn = tb.attack("ddn", model, inputs, labels, "l2:inf")
    reached = (ddn.adversarial - inputs).norm(dim=1).double()
    assert (found.distance <= 1.05 * reached).all()
    assert (found.distance >= 0.2 * reached.clamp(max=1)).all()
    # An estimate is no proof: it has no `certified`, no row among certifiers, and says so.
    assert not hasattr(found, "certified")
    assert "clever" not in CERTIFIERS.names
    assert "no bound" in inspect.getdoc(type(found))


def test_masked_gradients_make_it_overestimate():
    """The known failure: behind rounded inputs no gradient is left, and the estimate is all that was looked at."""
    model, inputs, labels = small()
    honest = tb.clever(model, inputs, labels, "linf:0.5", batches=10, draws=32)
    masked = tb.wrap(nn.Sequential(Quantise(levels=64), model.module))
    told = tb.clever(masked, inputs, labels, "linf:0.5", batches=10, draws=32)
    assert (told.distance == 0.5).all()
    assert (told.lipschitz == 0).all()
    assert (honest.distance < 0.4).any()
    # An attack that asks for scores alone finds what the estimate denies.
    broken = tb.attack("square", masked, inputs, labels, "linf:0.4;access=scores", steps=500)
    assert broken.success.any()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"threat": "l0:2"}, UnsupportedError, "clever estimates distances to other classes in the norms linf, l2, l1"),
        ({"threat": "l2:1;goal=target:1"}, UnsupportedError, "clever estimates"),
        ({"threat": "l2:1;access=scores"}, UnsupportedError, "gradients need access=gradients"),
        ({"batches": 4}, InputError, "`batches` must be a whole number, at least 5"),
        ({"draws": 0}, InputError, "`draws` must be a whole number"),
        ({"nearest": 0}, InputError, "`nearest` must be a whole number"),
        ({"labels": torch.tensor([0.5])}, InputError, "`labels`"),
    ],
)
def test_what_has_no_estimate_is_refused(given, error, words):
    model, inputs, labels = small()
    given = {"threat": "l2:1", "labels": labels, **given}
    with pytest.raises(error, match=words):
        tb.clever(model, inputs, given.pop("labels"), given.pop("threat"), **given)
