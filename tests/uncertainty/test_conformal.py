import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from trustbound.errors import InputError
from trustbound.uncertainty.conformal import Aps, Threshold, calibrate, conformal_quantile

SCORERS = [Threshold, Aps]


def drawn(n, classes=6, seed=0):
    """Logits, labels drawn from a *different* law than their softmax, and uniforms."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = (0.5 * logits).softmax(1).multinomial(1, generator=generator).squeeze(1)
    return logits, labels, torch.rand(n, generator=generator, dtype=torch.float64)


def brute_aps(row, uniform):
    """Equation by equation: walk down the sorted probabilities."""
    weights = np.exp(np.array(row) - max(row))
    p = weights / weights.sum()
    scores, mass = np.empty(len(p)), 0.0
    for index in sorted(range(len(p)), key=lambda i: (-p[i], i)):
        scores[index] = mass + uniform * p[index]
        mass += p[index]
    return scores


def mean_coverage(scorer, n, repetitions=3000, tested=20):
    """Share of fresh labels inside the sets, over many calibrations of n examples each."""
    size = n + tested
    logits, labels, uniforms = drawn(repetitions * size, seed=n)
    scores = scorer.scores(logits, uniforms).gather(1, labels[:, None]).reshape(repetitions, size)
    quantiles = [conformal_quantile(row[:n], scorer.level) for row in scores]
    return (scores[:, n:] <= torch.tensor(quantiles)[:, None]).double().mean().item(), scores


@pytest.mark.parametrize("kind", SCORERS)
@pytest.mark.parametrize("n", [20, 100])
def test_coverage_is_the_promised_one(kind, n):
    """Exactly ceil((n + 1) 0.9) / (n + 1) for continuous scores: never below 0.9, never above + 1/(n + 1)."""
    exact = math.ceil((n + 1) * 0.9) / (n + 1)
    assert 0.9 <= exact <= 0.9 + 1 / (n + 1)
    found, scores = mean_coverage(kind(level=0.9), n)
    error = math.sqrt(exact * (1 - exact) * (1 / n + 1 / 20) / 3000)
    assert abs(found - exact) < 4 * error
    # The quantile without (n + 1), as a known library takes it, misses the promise, and this test sees it.
    naive = scores[:, :n].quantile(0.9, dim=1, keepdim=True)
    assert (scores[:, n:] <= naive).double().mean() < exact - 4 * error


@pytest.mark.parametrize("kind", SCORERS)
def test_whole_path_covers(kind):
    """calibrate -> sets, on many small splits: the label is inside as often as promised."""
    hits = []
    for seed in range(300):
        logits, labels, uniforms = drawn(40, seed=seed)
        fitted = calibrate(kind(level=0.8), logits[:20], labels[:20], uniforms[:20])
        sets = fitted.sets(logits[20:], uniforms[20:])
        assert sets.dtype == torch.bool
        assert sets.shape == (20, 6)
        hits.append(sets.gather(1, labels[20:, None]).double().mean().item())
    exact = 17 / 21
    assert abs(np.mean(hits) - exact) < 4 * np.std(hits) / math.sqrt(300)


def test_aps_scores_follow_the_paper():
    logits, _, uniforms = drawn(200)
    logits[:20, 3] = logits[:20, 1]  # ties
    found = Aps().scores(logits, uniforms)
    expected = [brute_aps(row, u) for row, u in zip(logits.tolist(), uniforms.tolist(), strict=True)]
    np.testing.assert_allclose(found.numpy(), np.array(expected), atol=1e-13)


def test_aps_score_of_the_truth_is_uniform_under_the_networks_own_law():
    """If labels follow the softmax, the randomised score is exactly Uniform(0, 1): the test of randomisation."""
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    labels = logits.softmax(1).multinomial(1, generator=generator)
    uniforms = torch.rand(4000, generator=generator, dtype=torch.float64)
    scores = Aps().scores(logits, uniforms).gather(1, labels).squeeze(1).numpy()
    assert kstest(scores, "uniform").pvalue > 0.01
    fixed = Aps().scores(logits, torch.ones(4000)).gather(1, labels).squeeze(1).numpy()
    assert kstest(fixed, "uniform").pvalue < 1e-6  # without the random share it is not


def test_threshold_sets_are_the_classes_above_one_probability():
    logits, labels, uniforms = drawn(500)
    fitted = calibrate(Threshold(level=0.9), logits[:250], labels[:250], uniforms[:250])
    expected = logits[250:].softmax(1) >= 1 - fitted.quantile - 1e-15
    assert torch.equal(fitted.sets(logits[250:], uniforms[250:]), expected)


def test_aps_sets_hold_the_most_probable_classes():
    logits, labels, uniforms = drawn(500)
    fitted = calibrate(Aps(level=0.9), logits[:250], labels[:250], uniforms[:250])
    sets = fitted.sets(logits[250:], uniforms[250:])
    ranked = sets.gather(1, logits[250:].argsort(1, descending=True))
    assert (ranked[:, :-1] >= ranked[:, 1:]).all()
    assert 1 < sets.sum(1).double().mean() < 6


@pytest.mark.parametrize(
    ("n", "level", "rank"),
    [
        (19, 0.9, 18),
        (9, 0.9, 9),
        (8, 0.9, None),
        (99, 0.55, 55),  # 100 x 0.55 is 55.00000000000001 in binary
        (99, 0.95, 95),
        (20, 0.9, 19),
        (100, 0.9, 91),
        (1, 0.5, 1),
        (1, 0.51, None),
    ],
)
def test_quantile_has_the_finite_sample_rank(n, level, rank):
    scores = torch.randperm(n, generator=torch.Generator().manual_seed(0)) + 1.0
    assert conformal_quantile(scores, level) == (math.inf if rank is None else float(rank))


@pytest.mark.parametrize("kind", SCORERS)
def test_too_few_examples_give_the_set_of_all_classes(kind):
    logits, labels, uniforms = drawn(30)
    fitted = calibrate(kind(level=0.9), logits[:8], labels[:8], uniforms[:8])
    assert fitted.quantile == math.inf
    assert fitted.sets(logits, uniforms).all()


@pytest.mark.parametrize("kind", SCORERS)
def test_higher_levels_give_larger_sets(kind):
    logits, labels, uniforms = drawn(400)
    smaller = torch.zeros(200, 6, dtype=torch.bool)
    for level in (0.5, 0.8, 0.95):
        sets = calibrate(kind(level=level), logits[:200], labels[:200], uniforms[:200]).sets(
            logits[200:], uniforms[200:]
        )
        assert (sets >= smaller).all()
        smaller = sets


@pytest.mark.parametrize("kind", SCORERS)
def test_a_saturated_network_is_still_covered(kind):
    logits, labels, uniforms = drawn(2000)
    fitted = calibrate(kind(level=0.9), 500 * logits[:1000], labels[:1000], uniforms[:1000])
    sets = fitted.sets(500 * logits[1000:], uniforms[1000:])
    assert sets.gather(1, labels[1000:, None]).double().mean() >= 0.87


def test_refusals():
    logits, labels, uniforms = drawn(5)
    for level in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(InputError, match="`level` must lie strictly between 0 and 1"):
            Threshold(level=level)
    with pytest.raises(InputError, match=r"`uniforms` must be \(N,\)"):
        calibrate(Aps(), logits, labels, uniforms[:3])
    with pytest.raises(InputError, match="without NaN"):
        conformal_quantile(torch.tensor([math.nan]), 0.9)
    with pytest.raises(InputError, match="N >= 1"):
        conformal_quantile(torch.zeros(0), 0.9)
    with pytest.raises(InputError, match="`labels` must be int64"):
        calibrate(Aps(), logits, labels + 9, uniforms)
