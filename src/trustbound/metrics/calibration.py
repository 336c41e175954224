"""Is a confidence of 90 % right 90 % of the time? Reliability bins and the calibration errors over them.

Every function takes `confidence` (N,) in [0, 1] and `correct` (N,) bool and works in float64. Bins never lose
an example: the last one is closed, so that confidence 1.0, which float32 softmax reaches easily, is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trustbound.errors import InputError
from trustbound.metrics.paired import Floats, paired
from trustbound.record.binomial import binomial_interval
from trustbound.record.scores import Reliability, ReliabilityBin

CHANCE = math.sqrt(2.0 / math.pi)  # E|N(0, 1)|


def reliability(
    confidence: Tensor, correct: Tensor, bins: int = 15, spacing: str = "width", interval: float = 0.95
) -> Reliability:
    """Group examples by confidence: what each group claimed, and how often it was right.

    Shapes      confidence (N,), correct (N,) bool.
    Spacing     "width": `bins` bins of equal width on [0, 1], empty ones kept. "mass": at most `bins` bins of
                about equally many examples; equal confidences are never split, so that the order of the
                examples does not matter.
    Raises      InputError for no examples, confidences outside [0, 1], unequal shapes, unknown spacing.
    Reference   Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017 (1706.04599),
                eq. 3.
    Deviations  bins are [low, high), the last [low, high]; theirs are (low, high].

    >>> import torch
    >>> confidence, correct = torch.tensor([0.6, 0.6, 1.0]), torch.tensor([True, False, True])
    >>> found = reliability(confidence, correct, bins=2)
    >>> [(row.low, row.high, row.count, row.accuracy) for row in found.bins]
    [(0.0, 0.5, 0, None), (0.5, 1.0, 3, 0.666...)]
    """
    values, right = _probabilities(confidence, correct)
    edges = _edges(values, bins, spacing)
    cells = _cells(values, edges)
    rows = []
    for index in range(len(edges) - 1):
        inside = cells == index
        count, hits = int(inside.sum()), int(right[inside].sum())
        rows.append(
            ReliabilityBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                count=count,
                confidence=float(values[inside].mean()) if count else None,
                accuracy=hits / count if count else None,
                interval=binomial_interval(hits, count, interval),
            )
        )
    return Reliability(bins=tuple(rows))


def ece(confidence: Tensor, correct: Tensor, bins: int = 15, spacing: str = "width") -> float:
    """Expected calibration error: mean |accuracy - confidence| over the bins, weighted by their examples.

    It is biased upwards by chance, more so with more bins: a perfectly calibrated network does not get 0.
    Compare with `debiased_ece`.

    >>> import torch
    >>> round(ece(torch.tensor([0.75, 0.75, 1.0, 1.0]), torch.tensor([True, False, True, True])), 4)
    0.125
    """
    gaps = _gaps(confidence, correct, bins, spacing)
    return float(gaps.weight @ np.abs(gaps.mean))


@dataclass(frozen=True, kw_only=True)
class DebiasedError:
    """A calibration error without the share that chance adds: the estimate and its interval, both >= 0."""

    value: float
    low: float
    high: float


def debiased_ece(
    confidence: Tensor, correct: Tensor, bins: int = 15, spacing: str = "mass", interval: float = 0.95
) -> DebiasedError:
    """ECE minus the part that a finite sample adds by itself, with an interval for what is left.

    With d the mean of confidence - correct in a bin and s its standard error, the plug-in |d| is on average
    E|N(d, s^2)| = s sqrt(2/pi) exp(-d^2/2s^2) + |d| (1 - 2 Phi(-|d|/s)) where the truth is |d|. So the
    estimate is 2 ECE - sum_b w_b E|N(d_b, s_b^2)|, cut at 0: the Gaussian correction of Kumar et al., with
    its simulation replaced by its mean. It takes off about half of the chance part at a calibrated network,
    all of it far away.

    The interval inverts what chance can do at most. Its lower end takes off the whole chance part of a
    calibrated network, sum_b w_b s_b sqrt(2/pi), and the normal reach; its upper end is the largest truth
    whose plug-in value, at the allocation to bins that lifts it least, can be this small. It is conservative:
    in simulations of calibrated, over- and underconfident predictors with 100 to 1,000 examples it held the
    truth in 97.5 % or more for 95 %.

    Shapes      confidence (N,), correct (N,) bool.
    Spacing     as in `reliability`; "mass" keeps every bin large enough for its standard error to mean
                something.
    Reference   Kumar, Liang and Ma, Verified Uncertainty Calibration, 2019 (1909.10155), section 5 and
                appendix.
    Deviations  closed form instead of 1,000 random draws; s^2 is the sample variance of confidence - correct,
                which equals theirs when confidences in a bin are equal; bins of one example stay uncorrected.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> confidence = torch.rand(2000, generator=generator, dtype=torch.float64)
    >>> correct = torch.rand(2000, generator=generator, dtype=torch.float64) < confidence   # calibrated
    >>> found = debiased_ece(confidence, correct)
    >>> found.value < ece(confidence, correct), found.low
    (True, 0.0)
    """
    gaps = _gaps(confidence, correct, bins, spacing)
    plain = float(gaps.weight @ np.abs(gaps.mean))
    estimate = max(2.0 * plain - float(gaps.weight @ _folded_mean(gaps.mean, gaps.error)), 0.0)
    # A bin without a single error has no spread of its own: it gets at least what its confidences imply.
    error = np.maximum(gaps.error, gaps.implied)
    between = max(float(gaps.weight @ gaps.mean**2) - plain**2, 0.0) / gaps.n
    reach = _normal_quantile(interval) * math.sqrt(float(gaps.weight**2 @ error**2) + between)
    noise = float(gaps.weight @ error)
    low = plain - reach - CHANCE * noise
    return DebiasedError(value=estimate, low=max(low, 0.0), high=max(_least_truth(plain + reach, noise), estimate))


def debiased_squared_error(confidence: Tensor, correct: Tensor, bins: int = 15, spacing: str = "mass") -> float:
    """The squared (l2) calibration error over bins, unbiased: d^2 - s^2 summed over bins. May be negative.

    Shapes      confidence (N,), correct (N,) bool.
    Reference   Kumar, Liang and Ma, Verified Uncertainty Calibration, 2019 (1909.10155), definition 5.2.
    Deviations  as in `debiased_ece`.

    >>> import torch
    >>> correct = torch.tensor([True, True, True, False])
    >>> round(debiased_squared_error(torch.full((4,), 0.75), correct, bins=1), 6)   # 0 - (3/4)(1/4)/3
    -0.0625
    """
    gaps = _gaps(confidence, correct, bins, spacing)
    return float(gaps.weight @ (gaps.mean**2 - gaps.error**2))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Gaps:
    """Per non-empty bin: share of the examples, mean and standard error of confidence - correct."""

    n: int
    weight: Floats
    mean: Floats
    error: Floats
    implied: Floats


def _gaps(confidence: Tensor, correct: Tensor, bins: int, spacing: str) -> _Gaps:
    """Bin the examples and measure each bin's gap, two passes so that its variance is never negative."""
    values, right = _probabilities(confidence, correct)
    cells = _cells(values, _edges(values, bins, spacing))
    _, cells = np.unique(cells, return_inverse=True)
    count = np.bincount(cells).astype(np.float64)
    gap = values - right
    mean = np.bincount(cells, weights=gap) / count
    squares = np.bincount(cells, weights=(gap - mean[cells]) ** 2)
    return _Gaps(
        n=len(values),
        weight=count / len(values),
        mean=mean,
        error=np.sqrt(squares / np.maximum(count - 1.0, 1.0) / count),
        implied=np.sqrt(np.bincount(cells, weights=values * (1.0 - values))) / count,
    )


def _folded_mean(mean: Floats, error: Floats) -> Floats:
    """E|N(mean, error^2)|, also for error 0."""
    size = np.abs(mean)
    ratio = np.divide(size, error, out=np.full_like(size, np.inf), where=error > 0)
    chance = error * CHANCE * np.exp(-0.5 * ratio**2)
    return np.asarray(chance + size * np.vectorize(math.erf)(ratio / math.sqrt(2.0)))


def _least_truth(plain: float, noise: float) -> float:
    """The largest true error whose plug-in value can be as small as `plain` on average.

    Given sum_b w_b |d_b|, the convex sum_b w_b E|N(d_b, s_b^2)| is least where all d_b / s_b are one number
    t; there the truth is t noise and the plug-in noise (sqrt(2/pi) exp(-t^2/2) + t erf(t / sqrt 2)), noise =
    sum_b w_b s_b.
    """
    if plain <= CHANCE * noise:
        return 0.0
    low, high = 0.0, plain / noise if noise > 0 else 0.0
    for _ in range(60):
        t = (low + high) / 2.0
        if CHANCE * math.exp(-0.5 * t * t) + t * math.erf(t / math.sqrt(2.0)) > plain / noise:
            high = t
        else:
            low = t
    return high * noise if noise > 0 else plain


def _normal_quantile(interval: float) -> float:
    """How many standard errors a two-sided normal interval of this confidence spans to each side."""
    if not 0.0 < interval < 1.0:
        raise InputError(f"`interval` must lie strictly between 0 and 1; got {interval}. Use 0.95.")
    return NormalDist().inv_cdf(0.5 + interval / 2.0)


def _edges(values: Floats, bins: int, spacing: str) -> Floats:
    """Bin limits, increasing, from 0 (or the smallest of the sorted values) to 1 (or the largest)."""
    if bins < 1:
        raise InputError(f"`bins` must be at least 1; got {bins}. 15 is usual.")
    if spacing == "width":
        # k / bins, not a running sum: 0.3 must be the number nearest to 3/10.
        return np.arange(bins + 1, dtype=np.float64) / bins
    if spacing == "mass":
        first = np.arange(bins) * len(values) // bins
        edges = np.unique(np.append(values[first], values[-1]))
        # Where the last bin would start at the largest value, that value is a bin of its own, closed at both
        # ends.
        return np.append(edges, edges[-1]) if values[first[-1]] == values[-1] else edges
    raise InputError(f"`spacing` must be 'width' or 'mass'; got {spacing!r}.")


def _cells(values: Floats, edges: Floats) -> NDArray[np.int64]:
    """The bin of each value: [low, high), the last one closed at both ends."""
    return np.minimum(np.searchsorted(edges, values, side="right") - 1, len(edges) - 2).astype(np.int64)


def _probabilities(confidence: Tensor, correct: Tensor) -> tuple[Floats, Floats]:
    """Both as float64 arrays, after the checks, sorted: sums then do not depend on the examples' order."""
    values, right = paired(confidence, correct)
    if not ((values >= 0.0) & (values <= 1.0)).all():
        raise InputError(
            f"`confidence` must lie in [0, 1]; got [{values.min()}, {values.max()}]. Pass probabilities, not logits."
        )
    order = np.lexsort((right, values))
    return values[order], right[order]
