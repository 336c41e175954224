import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from trustbound.metrics.entropy import (
    expected_entropy,
    mixture_log_probabilities,
    moments,
    mutual_information,
    predictive_entropy,
)


def samples_of(count, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(count)
    return (scale * torch.randn(count, 50, 6, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("count", [1, 2, 17])
def test_entropies_equal_scipy(count):
    samples = samples_of(count)
    members = samples.softmax(-1).numpy()
    mean = members.mean(0)
    np.testing.assert_allclose(mixture_log_probabilities(samples).exp().numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(predictive_entropy(samples).numpy(), scipy_entropy(mean, axis=1), rtol=1e-10)
    np.testing.assert_allclose(expected_entropy(samples).numpy(), scipy_entropy(members, axis=2).mean(0), rtol=1e-10)
    divergence = scipy_entropy(members, np.broadcast_to(mean, members.shape), axis=2).mean(0)
    np.testing.assert_allclose(mutual_information(samples).numpy(), divergence, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_total_is_aleatoric_plus_epistemic_and_bounded(dtype):
    samples = samples_of(9, dtype=dtype)
    total, own, between = (measure(samples) for measure in (predictive_entropy, expected_entropy, mutual_information))
    assert total.dtype == own.dtype == between.dtype == dtype
    torch.testing.assert_close(total, own + between, rtol=1e-5, atol=1e-6)
    assert (between >= 0).all()
    assert (between <= math.log(6) + 1e-6).all()
    assert (total <= math.log(6) + 1e-6).all()


def test_disagreement_of_members_that_agree_is_never_negative_nor_noise():
    """The difference of two entropies is rounding noise of either sign here; the divergence is not."""
    member = samples_of(1, dtype=torch.float32)
    samples = member.repeat(7, 1, 1)
    textbook = predictive_entropy(samples) - expected_entropy(samples)
    assert (textbook < 0).any()
    found = mutual_information(samples)
    assert (found >= 0).all()
    assert found.max() < 1e-9
    assert mutual_information(member).abs().max() == 0


def test_small_disagreements_keep_their_digits():
    """Second order: MI of logits z +- h is about h^2 var_p / 2, far below the float32 noise of an entropy."""
    h = 1e-4
    base = torch.tensor([[[0.3, -0.2]]])
    samples = torch.cat((base + torch.tensor([h, -h]), base - torch.tensor([h, -h]))).float()
    p = base[0, 0].softmax(0)
    expected = 0.5 * (2 * h) ** 2 * (p[0] * p[1])
    assert mutual_information(samples).item() == pytest.approx(expected.item(), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits(dtype):
    samples = torch.tensor([[[1e4, -1e4, 0.0]], [[-1e4, 1e4, 0.0]]], dtype=dtype)
    assert predictive_entropy(samples).item() == pytest.approx(math.log(2), rel=1e-6)
    assert expected_entropy(samples).item() == 0.0
    assert mutual_information(samples).item() == pytest.approx(math.log(2), rel=1e-6)
    impossible = torch.tensor([[[0.0, 0.0, -torch.inf]], [[0.0, 1.0, -torch.inf]]], dtype=dtype)
    for measure in (predictive_entropy, expected_entropy, mutual_information):
        assert torch.isfinite(measure(impossible)).all()


def test_variance_is_never_negative_where_the_textbook_form_is():
    generator = torch.Generator().manual_seed(0)
    samples = 1e4 + 0.1 * torch.randn(20, 500, generator=generator)
    textbook = samples.square().mean(0) - samples.mean(0).square()
    assert (textbook < 0).any()  # sqrt of this is NaN
    mean, variance = moments(samples)
    assert (variance >= 0).all()
    exact = samples.double().numpy()
    np.testing.assert_allclose(mean.numpy(), exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance.numpy(), exact.var(0), rtol=0.05)
    with_noise = moments(samples, noise_variance=2.0)[1]
    assert torch.equal(with_noise, variance + 2.0)


def test_moments_in_float64_equal_numpy():
    samples = samples_of(13)
    mean, variance = moments(samples)
    np.testing.assert_allclose(mean.numpy(), samples.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance.numpy(), samples.numpy().var(0), rtol=1e-12)
