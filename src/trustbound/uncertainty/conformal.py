"""Split conformal sets: classes that together hold the truth as often as promised, whatever the network.

The promise: for exchangeable examples, P(label in set) >= level, and <= level + 1/(n + 1) when scores do not
tie, with n calibration examples. It says nothing about attacked inputs: measure those beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from trustbound.errors import InputError
from trustbound.metrics.margin import pick
from trustbound.uncertainty.outputs import check_outputs


class Scorer(Protocol):
    """How strange each class would be as the answer: a method's name, promise, and its pure scores."""

    @property
    def name(self) -> str:
        """The registry's name."""
        ...

    @property
    def level(self) -> float:
        """The promised coverage."""
        ...

    def scores(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Strangeness (N, C) in float64; uniforms (N,) in [0, 1), one per example."""
        ...


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One minus the class's probability: the sets hold every class above one threshold (LAC, THR).

    Bound       coverage >= `level` on exchangeable examples, in the mean over all of them.
    Shapes      logits (N, C) -> scores (N, C) float64; `uniforms` are not used.
    Randomness  none.
    Reference   Sadinle, Lei and Wasserman, Least Ambiguous Set-Valued Classifiers with Bounded Error Levels,
                2019 (1609.00451).
    Deviations  none.

    >>> scores = Threshold(level=0.9).scores(torch.tensor([[0.0, 0.0]]), torch.zeros(1))
    >>> scores.tolist()
    [[0.5, 0.5]]
    """

    level: float = 0.9
    name: str = field(default="threshold", init=False)

    def __post_init__(self) -> None:
        """Refuse levels that no set can promise."""
        _check_level(self.level)

    def scores(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """1 - p of each class."""
        return 1.0 - logits.detach().double().softmax(1)


@dataclass(frozen=True, kw_only=True)
class Aps:
    """The mass of all more probable classes plus a random share of the class's own: sets grow where needed.

    Bound       coverage >= `level` on exchangeable examples, in the mean over all of them.
    Shapes      logits (N, C), uniforms (N,) in [0, 1) -> scores (N, C) float64.
    Randomness  one uniform number per example, shared by its classes, drawn by the caller. It is what makes
                the coverage exact; sets may be empty where the network is sure, as in the paper.
    Reference   Romano, Sesia and Candes, Classification with Valid and Adaptive Coverage, 2020 (2006.02544),
                eq. 5-7.
    Deviations  equal probabilities are ordered by class index; the scores are float64 sums in that order, the
                same in calibration and test.

    >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> [[round(score, 6) for score in row] for row in Aps().scores(logits, torch.tensor([0.5])).tolist()]
    [[0.25, 0.65, 0.9]]
    """

    level: float = 0.9
    name: str = field(default="aps", init=False)

    def __post_init__(self) -> None:
        """Refuse levels that no set can promise."""
        _check_level(self.level)

    def scores(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Mass above each class plus `uniforms` times its own."""
        probabilities, order = logits.detach().double().softmax(1).sort(stable=True, dim=1, descending=True)
        above = probabilities.cumsum(1) - probabilities
        ranked = above + uniforms.to(above).unsqueeze(1) * probabilities
        return torch.empty_like(ranked).scatter_(1, order, ranked)


@dataclass(frozen=True, kw_only=True)
class ConformalSets:
    """A calibrated method: its scorer, the quantile of the calibration scores, and their number."""

    scorer: Scorer
    quantile: float
    n: int

    def sets(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Which classes are in each example's set: (N, C) bool. All when n is too small to promise."""
        return self.scorer.scores(logits, uniforms) <= self.quantile


def conformal_quantile(scores: Tensor, level: float) -> float:
    """The ceil((n + 1) level)-th smallest score, +inf when that rank is above n.

    The level is read as the decimal number that is written: 0.9 of 10 is 9, whatever 0.9 is in binary.

    Shapes      scores (N,).
    Raises      InputError for no scores, NaN scores or a level outside (0, 1).

    >>> conformal_quantile(torch.arange(1.0, 20.0), 0.9)         # n = 19: rank 18
    18.0
    >>> conformal_quantile(torch.arange(1.0, 9.0), 0.9)          # n = 8: rank 9 is above n
    inf
    """
    _check_level(level)
    if scores.ndim != 1 or not len(scores) or bool(scores.isnan().any()):
        raise InputError(
            f"calibration scores must be (N,), N >= 1, without NaN; got {tuple(scores.shape)}. "
            "Keep some examples for calibration, and find those whose outputs are not finite."
        )
    rank = math.ceil((len(scores) + 1) * Fraction(str(float(level))))
    return math.inf if rank > len(scores) else float(scores.detach().double().sort().values[rank - 1])


def calibrate(scorer: Scorer, logits: Tensor, labels: Tensor, uniforms: Tensor) -> ConformalSets:
    """Calibrate a method on examples that nothing else was fitted on.

    Shapes      logits (N, C); labels (N,) int64; uniforms (N,) in [0, 1).
    Raises      InputError for refused outputs or uniforms of another length.

    >>> logits, labels = torch.tensor([[2.0, 0.0]] * 19), torch.tensor([0] * 18 + [1])
    >>> fitted = calibrate(Threshold(level=0.9), logits, labels, torch.zeros(19))
    >>> fitted.sets(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.zeros(2)).tolist()
    [[True, False], [False, False]]
    """
    check_outputs(logits, labels)
    if uniforms.shape != labels.shape:
        raise InputError(
            f"`uniforms` must be (N,) like `labels`; got {tuple(uniforms.shape)} and {tuple(labels.shape)}. "
            "Draw one number in [0, 1) per example."
        )
    scores = pick(scorer.scores(logits, uniforms), labels.to(logits.device))
    return ConformalSets(scorer=scorer, quantile=conformal_quantile(scores, scorer.level), n=len(labels))


def _check_level(level: float) -> None:
    """Refuse levels that no set can promise."""
    if not 0.0 < level < 1.0:
        raise InputError(f"`level` must lie strictly between 0 and 1; got {level}. Use for example 0.9.")
