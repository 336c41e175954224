import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from trustbound.errors import InputError
from trustbound.metrics.calibration import debiased_ece, debiased_squared_error, ece, reliability
from trustbound.record.binomial import binomial_interval


def simulated(n, seed, truth=lambda c: c, low=0.1):
    """Confidences on [low, 1] and outcomes that are right with probability truth(confidence)."""
    random = np.random.default_rng(seed)
    confidence = low + (1 - low) * random.random(n)
    correct = random.random(n) < truth(confidence)
    return torch.from_numpy(confidence), torch.from_numpy(correct)


def brute_ece(confidence, correct, bins):
    total = 0.0
    for index in range(bins):
        inside = [
            (c, y)
            for c, y in zip(confidence, correct, strict=True)
            if index / bins <= c < (index + 1) / bins or (c == 1.0 and index == bins - 1)
        ]
        if inside:
            mean = sum(c for c, _ in inside) / len(inside)
            right = sum(y for _, y in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(mean - right)
    return total


def test_confidence_one_is_counted_in_the_last_bin():
    """A sixteenth bin above the last one, as a known library has, loses these examples: ECE 0 instead of 1/2."""
    confidence, correct = torch.ones(10), torch.arange(10) < 5
    found = reliability(confidence, correct, bins=15)
    assert len(found.bins) == 15
    assert found.bins[-1].count == 10
    assert found.bins[-1].accuracy == 0.5
    assert ece(confidence, correct) == 0.5
    assert ece(confidence, correct, spacing="mass") == 0.5


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.floats(0, 1), st.integers(0, 15).map(lambda k: k / 15), st.sampled_from([0.0, 1.0])),
            st.booleans(),
        ),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 20),
)
def test_every_example_is_in_exactly_one_bin(examples, bins):
    confidence = torch.tensor([c for c, _ in examples], dtype=torch.float64)
    correct = torch.tensor([y for _, y in examples])
    for spacing in ("width", "mass"):
        found = reliability(confidence, correct, bins=bins, spacing=spacing)
        assert sum(row.count for row in found.bins) == len(examples)
        hits = sum(row.count * row.accuracy for row in found.bins if row.accuracy is not None)
        assert hits == pytest.approx(correct.sum().item())
        for row, following in zip(found.bins, found.bins[1:], strict=False):
            assert row.high == following.low
        for row in found.bins:
            assert (row.confidence is None) == (row.accuracy is None) == (row.count == 0)
            if row.count:
                assert row.low - 1e-12 <= row.confidence <= row.high + 1e-12
    assert ece(confidence, correct, bins) == pytest.approx(
        brute_ece(confidence.tolist(), correct.tolist(), bins), abs=1e-12
    )


@pytest.mark.parametrize(("spacing", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_bins_equal_scikit_learn(spacing, strategy):
    confidence, correct = simulated(1500, 0)
    found = [row for row in reliability(confidence, correct, bins=15, spacing=spacing).bins if row.count]
    right, claimed = calibration_curve(correct.numpy(), confidence.numpy(), n_bins=15, strategy=strategy)
    if spacing == "width":
        np.testing.assert_allclose([row.accuracy for row in found], right, rtol=1e-12)
        np.testing.assert_allclose([row.confidence for row in found], claimed, rtol=1e-12)
    else:  # its quantiles are interpolated: at most one example changes sides at each limit
        assert [row.count for row in found] == [100] * 15
        np.testing.assert_allclose([row.confidence for row in found], claimed, atol=1e-3)
        np.testing.assert_allclose([row.accuracy for row in found], right, atol=0.011)
    for row in found:
        assert row.interval == binomial_interval(round(row.accuracy * row.count), row.count)


def test_equal_confidences_are_never_split_and_the_order_does_not_matter():
    confidence, correct = simulated(400, 1)
    confidence[:200] = 1.0
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    found = reliability(confidence, correct, bins=10, spacing="mass")
    assert found.bins[-1].count == 200
    assert found.bins[-1].low == 1.0
    assert reliability(confidence[order], correct[order], bins=10, spacing="mass") == found
    assert debiased_ece(confidence[order], correct[order]) == debiased_ece(confidence, correct)


def test_debiased_ece_equals_the_simulation_of_its_paper():
    """Kumar, Liang and Ma draw bin accuracies; with equal confidences in a bin the closed form is their limit."""
    random = np.random.default_rng(0)
    levels, n = np.array([0.55, 0.7, 0.8, 0.95]), 50
    confidence = np.repeat(levels, n)
    hits = np.array([25, 36, 39, 46])
    correct = (np.arange(n) < hits[:, None]).ravel()
    accuracy = hits / n
    # Their standard error divides by n, the unbiased one here by n - 1.
    error = np.sqrt(accuracy * (1 - accuracy) / (n - 1))
    plain = np.abs(levels - accuracy).mean()
    drawn = np.abs(random.normal(accuracy, error, size=(400_000, 4)) - levels).mean(1)
    expected = 2 * plain - drawn.mean()
    found = debiased_ece(torch.from_numpy(confidence), torch.from_numpy(correct), bins=4)
    assert found.value == pytest.approx(expected, abs=4 * drawn.std() / math.sqrt(400_000))
    assert found.value < plain - 0.005


def test_squared_error_is_unbiased_where_the_plain_one_is_not():
    """Truth: confidence overstates by 0.1 everywhere, squared 0.01; and a calibrated one, squared 0."""
    for shift in (0.0, 0.1):
        found, plain = [], []
        for seed in range(800):
            confidence, correct = simulated(150, seed, lambda c, shift=shift: c - shift)
            found.append(debiased_squared_error(confidence, correct, bins=5))
            rows = reliability(confidence, correct, bins=5, spacing="mass").bins
            plain.append(sum(row.count / 150 * (row.accuracy - row.confidence) ** 2 for row in rows))
        error = np.std(found) / math.sqrt(len(found))
        assert abs(np.mean(found) - shift**2) < 4 * error
        assert np.mean(plain) - shift**2 > 10 * error


def test_debiased_ece_is_nearer_to_the_truth_than_ece():
    for truth, value in ((lambda c: c, 0.0), (lambda c: c - 0.05, 0.05)):
        pairs = [simulated(300, seed, truth) for seed in range(100)]
        plain = np.mean([(ece(*pair, spacing="mass") - value) ** 2 for pair in pairs])
        assert np.mean([(debiased_ece(*pair).value - value) ** 2 for pair in pairs]) < 0.6 * plain


@pytest.mark.parametrize("n", [100, 600])
@pytest.mark.parametrize(
    ("truth", "value"),
    [
        (lambda c: c, 0.0),
        (lambda c: c - 0.05, 0.05),
        (lambda c: np.clip(c - 0.15, 0, 1), 0.1486),
        (lambda c: c**2, 0.1797),
    ],
)
def test_interval_holds_the_truth(n, truth, value):
    found = [debiased_ece(*simulated(n, seed, truth)) for seed in range(150)]
    held = sum(row.low <= value + 1e-4 and value - 1e-4 <= row.high for row in found)
    assert held >= 0.95 * 150 - 3 * math.sqrt(150 * 0.95 * 0.05)
    assert all(row.low <= row.value <= row.high for row in found)


def test_interval_excludes_what_is_clearly_wrong_and_narrows():
    confidence, correct = simulated(3000, 0, lambda c: c**2)
    wide, narrow = debiased_ece(confidence[:300], correct[:300]), debiased_ece(confidence, correct)
    assert narrow.low > 0.1
    assert narrow.high < 0.25
    assert narrow.high - narrow.low < (wide.high - wide.low) / 2
    looser = debiased_ece(confidence, correct, interval=0.5)
    assert narrow.low < looser.low < looser.high < narrow.high


def test_edges_without_spread():
    sure = debiased_ece(torch.ones(5), torch.ones(5, dtype=torch.bool))
    assert (sure.value, sure.low, sure.high) == (0.0, 0.0, 0.0)
    one = debiased_ece(torch.tensor([0.7]), torch.tensor([False]))
    assert one.low <= one.value <= one.high
    assert one.value == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("confidence", "correct", "options", "message"),
    [
        (torch.tensor([1.5]), torch.tensor([True]), {}, r"\[0, 1\]; got \[1.5, 1.5\]"),
        (torch.tensor([torch.nan]), torch.tensor([True]), {}, "1 NaN of 1"),
        (torch.zeros(0), torch.zeros(0, dtype=torch.bool), {}, "N >= 1"),
        (torch.zeros(2), torch.tensor([True]), {}, r"got \(2,\) and \(1,\)"),
        (torch.zeros(1), torch.tensor([True]), {"bins": 0}, "at least 1; got 0"),
        (torch.zeros(1), torch.tensor([True]), {"spacing": "log"}, "'width' or 'mass'; got 'log'"),
    ],
)
def test_refusals(confidence, correct, options, message):
    for measure in (ece, reliability, debiased_ece):
        with pytest.raises(InputError, match=message):
            measure(confidence, correct, **options)


def test_refuses_impossible_interval():
    with pytest.raises(InputError, match=r"between 0 and 1; got 1\.0"):
        debiased_ece(torch.zeros(1), torch.tensor([True]), interval=1.0)
