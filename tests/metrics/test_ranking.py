import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from trustbound.errors import InputError
from trustbound.metrics.ranking import aurc, auroc, risk_coverage


def tied_examples(n, seed, levels=7):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, levels, n) / levels), torch.from_numpy(random.random(n) < 0.6)


def brute_aurc(confidence, correct):
    """Mean over every order that sorts by falling confidence of the mean running error rate."""
    n = len(confidence)
    values = []
    for order in itertools.permutations(range(n)):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            errors = np.cumsum([not correct[i] for i in order])
            values.append((errors / np.arange(1, n + 1)).mean())
    return np.mean(values)


@pytest.mark.parametrize("seed", range(20))
def test_auroc_equals_scikit_learn_with_ties(seed):
    score, positive = tied_examples(60, seed)
    assert auroc(score, positive) == pytest.approx(roc_auc_score(positive.numpy(), score.numpy()), abs=1e-12)


def test_auroc_of_one_group_is_undefined():
    assert math.isnan(auroc(torch.tensor([0.1, 0.2]), torch.tensor([True, True])))
    assert math.isnan(auroc(torch.tensor([0.1, 0.2]), torch.tensor([False, False])))
    assert auroc(torch.tensor([0.5, 0.5]), torch.tensor([True, False])) == 0.5


@pytest.mark.parametrize("seed", range(12))
def test_aurc_is_the_mean_over_all_orders_of_ties(seed):
    confidence, correct = tied_examples(6, seed, levels=3)
    found = aurc(confidence, correct)
    assert found.aurc == pytest.approx(brute_aurc(confidence.tolist(), correct.tolist()), abs=1e-12)
    best = min(brute_aurc(list(order), correct.tolist()) for order in itertools.permutations(range(6)))
    assert found.best == pytest.approx(best, abs=1e-12)
    assert found.excess >= 0


def test_perfect_and_reversed_rankings():
    correct = torch.tensor([True] * 7 + [False] * 3)
    ladder = torch.linspace(1, 0.1, 10)
    assert aurc(ladder, correct).excess == pytest.approx(0, abs=1e-15)
    reversed_errors = np.minimum(np.arange(1, 11), 3) / np.arange(1, 11)
    assert aurc(-ladder, correct).aurc == pytest.approx(reversed_errors.mean())
    assert aurc(torch.ones(10), correct).aurc == pytest.approx(0.3)  # no ranking: the error rate itself
    assert aurc(ladder, torch.ones(10, dtype=torch.bool)).aurc == 0


def test_only_the_order_counts():
    confidence, correct = tied_examples(200, 3, levels=40)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    for measure in (auroc, lambda c, y: aurc(c, y).aurc, lambda c, y: risk_coverage(c, y).risk):
        expected = pytest.approx(measure(confidence, correct), abs=1e-12)
        assert measure(confidence[order], correct[order]) == expected
        assert measure(confidence**3 - 5, correct) == expected


def test_risk_coverage_points():
    confidence, correct = tied_examples(1000, 4, levels=1000)
    curve = risk_coverage(confidence, correct, points=40)
    assert curve.coverage == tuple(k / 40 for k in range(1, 41))
    assert curve.risk[-1] == pytest.approx(1 - correct.double().mean().item())
    by_hand = (~correct)[confidence.argsort(descending=True)][:250].double().mean().item()
    assert curve.risk[9] == pytest.approx(by_hand, abs=2 / 250)
    full = risk_coverage(confidence, correct, points=10_000)
    assert len(full.risk) == 1000
    assert np.mean(full.risk) == pytest.approx(aurc(confidence, correct).aurc)


def test_refusals():
    with pytest.raises(InputError, match="1 NaN of 2"):
        auroc(torch.tensor([torch.nan, 0.0]), torch.tensor([True, False]))
    with pytest.raises(InputError, match="N >= 1"):
        aurc(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    with pytest.raises(InputError, match="at least 1; got 0"):
        risk_coverage(torch.zeros(1), torch.tensor([True]), points=0)
