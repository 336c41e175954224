import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from trustbound.errors import InputError
from trustbound.metrics.scoring import nll
from trustbound.uncertainty.temperature import fit_temperature, likeliest_temperature


def calibrated(n, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, logits.softmax(1).multinomial(1, generator=generator).squeeze(1)


@pytest.mark.parametrize("seed", range(10))
def test_temperature_equals_a_general_minimiser(seed):
    logits, labels = calibrated(200, seed=seed)
    logits = logits * 10 ** (seed / 3 - 1.5)
    found = minimize_scalar(
        lambda t: nll(logits / math.exp(t), labels).mean().item(),
        bounds=(-10, 10),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert likeliest_temperature(logits, labels) == pytest.approx(math.exp(found.x), rel=1e-4)


def test_temperature_follows_the_scale_of_the_logits():
    logits, labels = calibrated(300)
    unit = likeliest_temperature(logits, labels)
    for scale in (1e-8, 1e-3, 7.0, 1e6):
        assert likeliest_temperature(scale * logits, labels) == pytest.approx(scale * unit, rel=1e-9)
        shifted = scale * (logits + 100)
        assert likeliest_temperature(shifted, labels) == pytest.approx(scale * unit, rel=1e-6)


def test_no_best_temperature():
    logits, _ = calibrated(50)
    assert likeliest_temperature(logits, logits.argmax(1)) is None  # T -> 0
    assert likeliest_temperature(logits, logits.argmin(1)) is None  # T -> infinity
    assert likeliest_temperature(torch.zeros(50, 3), torch.zeros(50, dtype=torch.int64)) is None


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_a_planted_temperature_is_found_and_advised(factor):
    logits, labels = calibrated(3000)
    fit = fit_temperature(factor * logits[:1500], labels[:1500], factor * logits[1500:], labels[1500:])
    assert fit.temperature == pytest.approx(factor, rel=0.1)
    assert fit.scale
    assert fit.applied == fit.temperature
    assert fit.nll_after < fit.nll_before
    assert fit.ece_after < fit.ece_before / 3
    assert "scale: on examples that did not choose it the NLL falls by" in fit.reason


def test_calibrated_networks_are_left_alone():
    """One-sided 95 %: of 60 calibrated networks at most a few are scaled by chance."""
    advised = 0
    for seed in range(60):
        logits, labels = calibrated(400, seed=seed)
        fit = fit_temperature(logits[:200], labels[:200], logits[200:], labels[200:])
        advised += fit.scale
        assert fit.applied == (fit.temperature if fit.scale else 1.0)
    assert advised <= 6


def test_the_advice_is_cross_fitted_and_asks_for_significance():
    """A gain in sample is always there; held out it is a coin's toss, and a high confidence refuses most of it."""

    def advised(factor, confidence):
        count = 0
        for seed in range(40):
            logits, labels = calibrated(200, seed=seed)
            logits = factor * logits
            count += fit_temperature(logits, labels, logits, labels, confidence=confidence).scale
        return count

    assert advised(1.0, 0.5) <= 10
    eager, careful = advised(1.25, 0.5), advised(1.25, 0.99)
    assert careful < eager / 2


def test_better_likelihood_with_worse_calibration_is_refused():
    """95 % of the examples are calibrated, 5 % boastful: one T helps the NLL and spoils the rest."""
    generator = torch.Generator().manual_seed(0)
    n = 4000
    boastful = torch.rand(n, generator=generator) < 0.05
    gap = torch.where(boastful, 12.0, 3.0)
    right = torch.where(boastful, 0.5, gap.sigmoid())
    labels = (torch.rand(n, generator=generator) >= right).long()
    logits = torch.stack((gap, torch.zeros(n)), dim=1)
    fit = fit_temperature(logits[:2000], labels[:2000], logits[2000:], labels[2000:])
    assert fit.nll_after < fit.nll_before
    assert fit.ece_after > fit.ece_before
    assert not fit.scale
    assert fit.applied == 1.0
    assert "but the ECE rises" in fit.reason


def test_the_evaluation_split_takes_no_part_in_fit_and_decision():
    logits, labels = calibrated(600)
    logits = 2 * logits
    first = fit_temperature(logits[:300], labels[:300], logits[300:], labels[300:])
    second = fit_temperature(logits[:300], labels[:300], -5 * logits[300:], labels[300:].flip(0))
    assert (first.temperature, first.scale, first.reason) == (
        second.temperature,
        second.scale,
        second.reason,
    )
    assert first.nll_after != second.nll_after
    assert first.nll_after == pytest.approx(nll(logits[300:] / first.temperature, labels[300:]).mean().item())


def test_says_why_not():
    logits, labels = calibrated(200)
    few = fit_temperature(3 * logits[:10], labels[:10], logits, labels)
    assert not few.scale
    assert "too few, 20 are needed" in few.reason
    separable = fit_temperature(logits, logits.argmax(1), logits, labels)
    assert not separable.scale
    assert separable.temperature is None
    assert separable.nll_after == separable.nll_before
    assert "no best T" in separable.reason
    one_error = logits.argmax(1)
    one_error[7] = logits[7].argmin()
    fragile = fit_temperature(logits, one_error, logits, labels)
    assert not fragile.scale
    assert "one calibration fold" in fragile.reason


def test_refusals():
    logits, labels = calibrated(30)
    with pytest.raises(InputError, match="same classes; got 4 and 5"):
        fit_temperature(logits[:, :4], labels.clamp_max(3), logits, labels)
    with pytest.raises(InputError, match="`folds` must be at least 2"):
        fit_temperature(logits, labels, logits, labels, folds=1)
    with pytest.raises(InputError, match="`evaluation_logits` must be finite"):
        fit_temperature(logits, labels, logits * torch.inf, labels)
