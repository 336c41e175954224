"""Temperature scaling that can say no: fit one divisor of the logits, and decide whether it helps."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from trustbound.errors import InputError
from trustbound.metrics.calibration import ece
from trustbound.metrics.scoring import nll
from trustbound.record.scores import TemperatureFit
from trustbound.uncertainty.outputs import check_outputs

LOG_RANGE = math.log(1e6)
FEWEST = 20


def likeliest_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The T > 0 that minimises the NLL of logits / T, or None where there is no such T.

    In b = 1/T the NLL is convex; its slope, mean(E_p[z] - z_label), rises in b, so its one zero is found by
    bisection in log T, between 1e-6 and 1e6 of the largest gap of logits. There is none when every label has the
    largest logit (T -> 0), nor when the labels' logits are no better than chance (T -> infinity).

    Shapes      logits (N, C); labels (N,) int64.

    >>> logits = torch.tensor([[2.0, 0.0]] * 4)
    >>> t = likeliest_temperature(logits, torch.tensor([0, 0, 0, 1]))     # 3/4 = sigmoid(2 / T)
    >>> round(t, 9) == round(2 / math.log(3), 9)
    True
    >>> likeliest_temperature(logits, torch.tensor([0, 0, 0, 0])) is None
    True
    """
    # Differences from the label: the slope is then a sum of small numbers even for logits around 1e6.
    gaps = logits.detach().double()
    gaps = gaps - gaps.gather(1, labels.to(gaps.device).unsqueeze(1))
    if bool((gaps <= 0).all()) or float(gaps.mean()) >= 0:
        return None
    # Only the spread of the logits gives T a scale.
    unit = float(gaps.abs().amax())
    low, high = -LOG_RANGE, LOG_RANGE
    for _ in range(56):
        middle = (low + high) / 2.0
        weight = (gaps / (unit * math.exp(middle))).softmax(1)
        if float((weight * gaps).sum(1).mean()) > 0:
            low = middle  # too sure: warmer
        else:
            high = middle
    return unit * math.exp((low + high) / 2.0)


def fit_temperature(
    calibration_logits: Tensor,
    calibration_labels: Tensor,
    evaluation_logits: Tensor,
    evaluation_labels: Tensor,
    *,
    folds: int = 5,
    confidence: float = 0.95,
    bins: int = 15,
) -> TemperatureFit:
    """Fit T on one split, decide there whether to use it, and measure its effect on the other split.

    Decision    by cross-fitting inside the calibration split: each fold (rows k, k + folds, …) is scaled with
                the T of the other folds. "Scale" needs both: the paired gain in NLL is above 0 with the given
                one-sided confidence (normal), and the cross-fitted ECE is not above the plain one. The
                evaluation examples take no part in the fit nor in the decision.
    Shapes      logits (N, C), (M, C); labels (N,), (M,) int64. Rows in random order, or at least not sorted
                by class with period `folds`.
    Cost        56 (folds + 1) softmax passes over the calibration logits.
    Randomness  none.
    Raises      InputError for refused outputs, unequal numbers of classes, folds < 2.
    Reference   Guo et al., On Calibration of Modern Neural Networks, 2017 (1706.04599), section 4.2.
    Deviations  theirs always scales; it makes calibration worse on Reuters.

    >>> generator = torch.Generator().manual_seed(0)
    >>> logits = torch.randn(4000, 3, generator=generator)
    >>> labels = logits.softmax(1).multinomial(1, generator=generator).squeeze(1)
    >>> fit = fit_temperature(3 * logits[:2000], labels[:2000], 3 * logits[2000:], labels[2000:])
    >>> fit.scale, 2.5 < fit.temperature < 3.5, fit.ece_after < fit.ece_before
    (True, True, True)
    >>> fit_temperature(logits[:2000], labels[:2000], logits[2000:], labels[2000:]).scale
    False
    """
    check_outputs(calibration_logits, calibration_labels, "calibration_logits")
    check_outputs(evaluation_logits, evaluation_labels, "evaluation_logits")
    if calibration_logits.shape[1] != evaluation_logits.shape[1]:
        raise InputError(
            "both splits must have the same classes; got "
            f"{calibration_logits.shape[1]} and {evaluation_logits.shape[1]}. Split one set of outputs."
        )
    if folds < 2 or not 0.0 < confidence < 1.0:
        raise InputError(
            f"`folds` must be at least 2 and `confidence` in (0, 1); got {folds} and {confidence}. "
            "Use for example 5 and 0.95."
        )
    fitted = calibration_logits.detach().double(), calibration_labels.to(calibration_logits.device)
    held = evaluation_logits.detach().double(), evaluation_labels.to(evaluation_logits.device)
    temperature = likeliest_temperature(*fitted)
    scale, reason = _decide(*fitted, temperature, folds, confidence, bins)
    divisor = temperature or 1.0
    return TemperatureFit(
        temperature=temperature,
        nll_before=float(nll(*held).mean()),
        nll_after=float(nll(held[0] / divisor, held[1]).mean()),
        ece_before=_ece(*held, bins),
        ece_after=_ece(held[0] / divisor, held[1], bins),
        scale=scale,
        reason=reason,
    )


def _decide(
    logits: Tensor, labels: Tensor, temperature: float | None, folds: int, confidence: float, bins: int
) -> tuple[bool, str]:
    """Whether scaling helps examples that it was not fitted on, and why."""
    n = len(labels)
    if n < max(FEWEST, 2 * folds):
        return (
            False,
            f"do not scale: {n} calibration examples are too few, {max(FEWEST, 2 * folds)} are needed",
        )
    if temperature is None:
        return (
            False,
            "do not scale: the calibration examples are all right or no better than chance; no best T",
        )
    scaled = torch.empty_like(logits)
    fold_of = torch.arange(n, device=logits.device) % folds
    for fold in range(folds):
        inside = fold_of == fold
        partial = likeliest_temperature(logits[~inside], labels[~inside])
        if partial is None:
            return False, "do not scale: one calibration fold has no best T, so T hangs on a few examples"
        scaled[inside] = logits[inside] / partial
    gain = nll(logits, labels) - nll(scaled, labels)
    mean, error = float(gain.mean()), float(gain.std()) / math.sqrt(n)
    shown = f"on examples that did not choose it the NLL falls by {mean:.4f} ± {error:.4f}"
    if not mean > NormalDist().inv_cdf(confidence) * error:
        return False, f"do not scale: {shown}, which is no more than chance"
    before, after = _ece(logits, labels, bins), _ece(scaled, labels, bins)
    if after > before:
        return False, f"do not scale: {shown}, but the ECE rises from {before:.4f} to {after:.4f}"
    return True, f"scale: {shown}, and the ECE goes from {before:.4f} to {after:.4f}"


def _ece(logits: Tensor, labels: Tensor, bins: int) -> float:
    """ECE of the softmax confidence."""
    top = logits.softmax(1).amax(1).clamp_max(1.0)
    return ece(top, logits.argmax(1) == labels, bins)
