"""Does confidence tell right answers from wrong ones? Scores that depend on the order of confidences only.

Examples of equal confidence are exchanged freely: every number here is its average over all orders of such
ties, so that the order in which examples came never changes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from trustbound.errors import InputError
from trustbound.metrics.paired import Floats, paired
from trustbound.record.scores import RiskCoverage


def auroc(score: Tensor, positive: Tensor) -> float:
    """The probability that a positive example scores higher than a negative one; ties count one half.

    With `score` the confidence and `positive` the correctness it tells how well confidence finds errors.
    NaN when one of the two groups is empty.

    Shapes      score (N,), positive (N,) bool.
    Reference   Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve, 1982.

    >>> import torch
    >>> auroc(torch.tensor([0.9, 0.8, 0.8, 0.1]), torch.tensor([True, True, False, False]))
    0.875
    """
    values, right = paired(score, positive)
    hits = int(right.sum())
    if hits in (0, len(right)):
        return math.nan
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2.0)[group]
    misses = len(right) - hits
    return float((rank[right > 0].sum() - hits * (hits + 1) / 2.0) / (hits * misses))


@dataclass(frozen=True, kw_only=True)
class SelectiveRisk:
    """Area under the risk-coverage curve: of this ranking, of a perfect one, and the difference."""

    aurc: float
    best: float

    @property
    def excess(self) -> float:
        """What a perfect ranking of the same answers would save (E-AURC); never negative."""
        return max(self.aurc - self.best, 0.0)


def aurc(confidence: Tensor, correct: Tensor) -> SelectiveRisk:
    """Mean error rate over all coverages 1/N, 2/N, … 1, most confident first.

    Shapes      confidence (N,), correct (N,) bool.
    Reference   Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers,
                2019 (1805.08206), section 3.
    Deviations  the perfect ranking's area is its exact sum, not the limit r + (1 - r) log(1 - r).

    >>> import torch
    >>> aurc(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, True, True, False]))
    SelectiveRisk(aurc=0.0625, best=0.0625)
    """
    risk = _risks(confidence, correct)
    n = len(risk)
    kept = np.arange(1, n + 1)
    right = int((paired(confidence, correct)[1] > 0).sum())
    best = np.maximum(kept - right, 0) / kept
    return SelectiveRisk(aurc=float(risk.mean()), best=float(best.mean()))


def risk_coverage(confidence: Tensor, correct: Tensor, points: int = 100) -> RiskCoverage:
    """The error rate among the most confident share, at `points` shares evenly spaced up to all examples.

    Shapes      confidence (N,), correct (N,) bool; at most min(points, N) points come back.

    >>> import torch
    >>> risk_coverage(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, True, True, False]), points=2)
    RiskCoverage(coverage=(0.5, 1.0), risk=(0.0, 0.25))
    """
    if points < 1:
        raise InputError(f"`points` must be at least 1; got {points}. 100 draw a smooth curve.")
    risk = _risks(confidence, correct)
    n, shown = len(risk), min(points, len(risk))
    kept = np.arange(1, shown + 1) * n // shown
    return RiskCoverage(coverage=tuple(float(k) / n for k in kept), risk=tuple(float(risk[k - 1]) for k in kept))


def _risks(confidence: Tensor, correct: Tensor) -> Floats:
    """Error rate among the k most confident, k = 1 … N, averaged over the orders of ties."""
    values, right = paired(confidence, correct)
    _, group, count = np.unique(-values, return_inverse=True, return_counts=True)
    share = np.bincount(group, weights=1.0 - right) / count
    return np.asarray(np.cumsum(np.repeat(share, count)) / np.arange(1, len(values) + 1))
