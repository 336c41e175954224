"""Predictive uncertainty from posterior or ensemble samples: entropies in log space, moments centred.

In nats, total = aleatoric + epistemic: `predictive_entropy` = `expected_entropy` + `mutual_information`.
A deterministic network is the case S = 1, where the mutual information is exactly zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mixture_log_probabilities(samples: Tensor) -> Tensor:
    """log of the mean softmax, without leaving log space: these are logits of the averaged predictor.

    Shapes      samples (S, B, C), sample axis first -> (B, C), dtype kept.

    >>> mixture_log_probabilities(torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]])).exp()
    tensor([[0.5000, 0.5000]])
    """
    log_probabilities = samples.log_softmax(-1)
    if samples.shape[0] == 1:
        return log_probabilities[0]
    return log_probabilities.logsumexp(0) - math.log(samples.shape[0])


def predictive_entropy(samples: Tensor) -> Tensor:
    """Entropy of the averaged prediction: all that is not known, in [0, log C].

    Shapes      samples (S, B, C) -> (B,), dtype kept. Classes of probability 0 contribute 0.

    >>> round(predictive_entropy(torch.zeros(1, 1, 4)).item() / math.log(4), 6)
    1.0
    """
    return _entropy(mixture_log_probabilities(samples))


def expected_entropy(samples: Tensor) -> Tensor:
    """Mean entropy of the members: the uncertainty that each of them has by itself (aleatoric).

    Shapes      samples (S, B, C) -> (B,), dtype kept.

    >>> expected_entropy(torch.tensor([[[200.0, 0.0]], [[0.0, 200.0]]]))
    tensor([0.])
    """
    return _entropy(samples.log_softmax(-1)).mean(0)


def mutual_information(samples: Tensor) -> Tensor:
    """How much the members disagree (epistemic): between 0 and min(log S, log C).

    Computed as the mean divergence (1/S) sum_s KL(p_s || mean p), not as the difference of two entropies,
    which for members that agree is rounding noise of either sign. Each term is taken with its first-order
    part removed, p log(p/q) - p + q >= 0, whose sum over classes is the same.

    Shapes      samples (S, B, C) -> (B,), dtype kept.
    Reference   Houlsby et al., Bayesian Active Learning for Classification and Preference Learning, 2011
                (1112.5745), equation 2.

    >>> round(mutual_information(torch.tensor([[[200.0, 0.0]], [[0.0, 200.0]]])).item() / math.log(2), 6)
    1.0
    """
    log_members = samples.log_softmax(-1)
    if samples.shape[0] == 1:
        return log_members.new_zeros(log_members.shape[1:-1])
    log_mean = mixture_log_probabilities(samples).unsqueeze(0)
    impossible = log_members.isneginf()
    ratio = torch.where(impossible, torch.zeros_like(log_members), log_members - log_mean)
    terms = log_members.exp() * ratio - torch.where(impossible, -log_mean.exp(), log_mean.exp() * torch.expm1(ratio))
    return terms.sum(-1).mean(0).clamp_min(0.0)


def moments(samples: Tensor, noise_variance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean of the samples, and their variance about it plus the noise of one observation.

    Var = noise_variance + (1/S) sum_s (f_s - mean)^2. The textbook E[f^2] - E[f]^2 subtracts two large
    numbers: in float32 it is negative for outputs near 10^4 that differ by 10^-1, and its square root is NaN.

    Shapes      samples (S, B, *F), sample axis first -> (B, *F), (B, *F), dtype kept.
    Cost        two passes over the samples.
    Reference   Gal and Ghahramani, Dropout as a Bayesian Approximation, 2016 (1506.02142), equation 6.
    Deviations  centred, as above; otherwise the same number.

    >>> mean, variance = moments(torch.tensor([[1.0], [3.0]]))
    >>> mean, variance
    (tensor([2.]), tensor([1.]))
    """
    mean = samples.mean(0)
    return mean, (samples - mean).square().mean(0) + noise_variance


def _entropy(log_probabilities: Tensor) -> Tensor:
    """-sum p log p over the last axis, where 0 log 0 = 0."""
    finite = log_probabilities.masked_fill(log_probabilities.isneginf(), 0.0)
    return (0.0 - (log_probabilities.exp() * finite).sum(-1)).clamp_min(0.0)
