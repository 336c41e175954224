"""Proper scores of a predicted distribution: what honest probabilities minimise."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trustbound.metrics.margin import pick


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log likelihood of the label in nats, per example; finite for finite logits.

    Shapes      logits (B, C); labels (B,) int64 -> (B,), dtype kept.

    >>> import torch
    >>> nll(torch.tensor([[0.0, 0.0], [800.0, 0.0]]), torch.tensor([0, 1]))
    tensor([6.9315e-01, 8.0000e+02])
    """
    return F.cross_entropy(logits, labels, reduction="none")


def brier(logits: Tensor, labels: Tensor) -> Tensor:
    """Squared distance between the probabilities and the one-hot label, per example: in [0, 2].

    Shapes      logits (B, C); labels (B,) int64 -> (B,), dtype kept.
    Reference   Brier, Verification of Forecasts Expressed in Terms of Probability, 1950.
    Deviations  none: summed over all classes, so a two-class score is twice that of the one-sided convention.

    >>> import torch
    >>> brier(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    tensor([0.5000])
    """
    probabilities = logits.softmax(1)
    right = pick(probabilities, labels)
    # (1 - p)^2 + the others' squares: the others are summed alone, so that a sure network's score keeps its
    # digits.
    others = probabilities.scatter(1, labels.unsqueeze(1), 0.0)
    return (1.0 - right).square() + others.square().sum(1)
