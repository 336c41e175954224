"""What is recorded about a network's uncertainty: scores, bins, curves, temperature, conformal sets.

A score that is not defined (the confidence on errors of a network without errors) is None, never NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Base of these records: undefined numbers become None, so that equal scores are equal records."""

    def __post_init__(self) -> None:
        """Write an undefined number as None and freeze lists into tuples."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and math.isnan(value):
                object.__setattr__(self, field.name, None)
            elif isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin(Score):
    """The examples whose confidence lies in [low, high) ([low, high] for the last bin).

    `confidence` and `accuracy` are means over the bin, None where it is empty; `interval` is the exact
    binomial one of the accuracy.

    >>> bin = ReliabilityBin(low=0.9, high=1.0, count=0, confidence=None, accuracy=None, interval=(0.0, 1.0))
    >>> bin.confidence is None
    True
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Reliability(Score):
    """A reliability diagram: what was claimed and what was right, bin by bin, in order of confidence."""

    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, kw_only=True)
class RiskCoverage(Score):
    """Error rate among the most confident share of the examples, at increasing shares.

    >>> RiskCoverage(coverage=[0.5, 1.0], risk=[0.0, 0.1]).risk
    (0.0, 0.1)
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class CalibrationScores(Score):
    """Proper, calibration and ranking scores of the confidence, measured on `n` examples.

    `nll` and `brier` are means (nats; sum of squared differences over the classes). `ece` uses bins of equal
    width, `ece_debiased` and its 95 % `ece_interval` remove what chance alone adds to it. `auroc` is the
    probability that a correct answer is more confident than a wrong one; `aurc` the area under
    `risk_coverage`, `aurc_excess` what of it a perfect ranking would save.
    """

    n: int
    accuracy: float
    nll: float
    brier: float
    ece: float
    ece_debiased: float
    ece_interval: Interval
    mean_confidence: float
    mean_confidence_on_errors: float | None
    auroc: float | None
    aurc: float
    aurc_excess: float
    reliability: Reliability
    risk_coverage: RiskCoverage


@dataclass(frozen=True, kw_only=True)
class TemperatureFit(Score):
    """The temperature fitted on one split, its effect on another, and whether it should be used.

    `temperature` is None where the likelihood has no maximum. `scale` and `reason` were decided on the
    calibration examples alone; `…_before` and `…_after` are measured on the evaluation examples.
    """

    temperature: float | None
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    scale: bool
    reason: str

    @property
    def applied(self) -> float:
        """The temperature to divide logits by: the fitted one, or 1 when the advice is not to scale."""
        return self.temperature if self.scale and self.temperature is not None else 1.0


@dataclass(frozen=True, kw_only=True)
class ConformalScore(Score):
    """Split conformal sets of one method: promised coverage `level`, and what clean and attacked inputs got.

    The promise covers clean, exchangeable examples only; `coverage_attacked` is what an adversary leaves of
    it (None where no attacked inputs were given). Intervals are exact binomial, over `n` evaluation examples.
    """

    method: str
    level: float
    n_calibration: int
    n: int
    quantile: float
    coverage_clean: float
    coverage_interval: Interval
    mean_set_size: float
    coverage_attacked: float | None
    coverage_interval_attacked: Interval | None
    mean_set_size_attacked: float | None


@dataclass(frozen=True, kw_only=True)
class UncertaintyReport(Score):
    """All that was measured about a network's uncertainty, clean and, where given, under attack.

    `clean` and `attacked` cover all examples, since nothing is fitted for them. The rest is fitted on
    `n_calibration` clean examples and measured on the other `n_evaluation`; `scaled_…` is None when the
    advice is not to scale; `temperature` is None and `conformal` empty when there were too few examples to
    split.
    """

    n_calibration: int
    n_evaluation: int
    clean: CalibrationScores
    attacked: CalibrationScores | None
    temperature: TemperatureFit | None
    scaled_clean: CalibrationScores | None
    scaled_attacked: CalibrationScores | None
    conformal: tuple[ConformalScore, ...]
