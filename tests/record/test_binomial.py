"""Exact binomial intervals against scipy's own and against the definition of coverage."""

import pytest
from scipy.stats import binom, binomtest

from trustbound.errors import InputError
from trustbound.record.binomial import binomial_interval


@pytest.mark.parametrize("total", [1, 2, 10, 137, 1000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_it_is_scipys_exact_interval(total, confidence):
    for successes in sorted({0, 1, total // 3, total // 2, total - 1, total}):
        expected = binomtest(successes, total).proportion_ci(confidence, method="exact")
        assert binomial_interval(successes, total, confidence) == pytest.approx(
            (expected.low, expected.high), abs=1e-12
        )


@pytest.mark.parametrize("truth", [0.01, 0.3, 0.5, 0.97])
def test_it_covers_the_truth_as_often_as_it_says(truth):
    total = 40
    covered = sum(
        binom.pmf(successes, total, truth)
        for successes in range(total + 1)
        if binomial_interval(successes, total)[0] <= truth <= binomial_interval(successes, total)[1]
    )
    assert 0.95 <= covered < 1.0


@pytest.mark.parametrize(("successes", "total", "confidence"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0), (1, 3, 0.0)])
def test_nonsense_is_refused(successes, total, confidence):
    with pytest.raises(InputError):
        binomial_interval(successes, total, confidence)
