"""Calibration, ranking and proper scores of the softmax confidence."""

from __future__ import annotations

from torch import Tensor

from trustbound.metrics.calibration import debiased_ece, ece, reliability
from trustbound.metrics.ranking import aurc, auroc, risk_coverage
from trustbound.metrics.scoring import brier, nll
from trustbound.record.scores import CalibrationScores
from trustbound.uncertainty.outputs import check_outputs


def calibration_scores(logits: Tensor, labels: Tensor, *, bins: int = 15, points: int = 100) -> CalibrationScores:
    """Score the softmax confidence of a network on labelled examples, clean or attacked.

    Bound       none: a description of these examples, nothing is proven about others.
    Shapes      logits (N, C); labels (N,) int64. Mixtures of an ensemble count as logits too:
                `measure.entropy.mixture_log_probabilities(samples)`.
    Confidence  the largest softmax probability, in float64 whatever the dtype of the logits; where two
                classes tie on top the network answers the first of them.
    Bins        `ece` and the reliability diagram use `bins` bins of equal width (as published figures do),
                the debiased error and its interval at most `bins` bins of equal mass.
    Randomness  none.
    Raises      InputError for outputs that `uncertainty.outputs.check_outputs` refuses.
    Reference   Guo et al., On Calibration of Modern Neural Networks, 2017 (1706.04599); Kumar et al.,
                Verified Uncertainty Calibration, 2019 (1909.10155); Geifman et al., Bias-Reduced Uncertainty
                Estimation for Deep Neural Classifiers, 2019 (1805.08206).
    Deviations  closed last bin; closed-form debiasing; ties averaged (see the modules of `measure`).

    >>> import torch
    >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> found = calibration_scores(logits, torch.tensor([0, 0, 1, 1]))
    >>> found.accuracy, round(found.nll, 3), found.auroc
    (0.75, 0.416, 0.833...)
    """
    check_outputs(logits, labels)
    precise, labels = logits.detach().double(), labels.to(logits.device)
    # A softmax that rounding puts above 1 by an ulp is still a probability.
    confidence = precise.softmax(1).amax(1).clamp_max(1.0)
    correct = precise.argmax(1) == labels
    wrong = confidence[~correct]
    debiased = debiased_ece(confidence, correct, bins)
    selective = aurc(confidence, correct)
    return CalibrationScores(
        n=len(labels),
        accuracy=float(correct.double().mean()),
        nll=float(nll(precise, labels).mean()),
        brier=float(brier(precise, labels).mean()),
        ece=ece(confidence, correct, bins),
        ece_debiased=debiased.value,
        ece_interval=(debiased.low, debiased.high),
        mean_confidence=float(confidence.mean()),
        mean_confidence_on_errors=float(wrong.mean()) if len(wrong) else None,
        auroc=auroc(confidence, correct),
        aurc=selective.aurc,
        aurc_excess=selective.excess,
        reliability=reliability(confidence, correct, bins),
        risk_coverage=risk_coverage(confidence, correct, points),
    )
