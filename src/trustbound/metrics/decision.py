"""What a network decides: the class of its outputs, how sure it is, and whether it answered at all.

A decision hangs on the order of the logits alone. The softmax in the logits' own dtype does not keep that order:
where logits differ by less than its rounding, as at a scale of 1e-9, it makes them equal. So classes are read from
the logits widened to float64, which is exact, and confidences from the softmax in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The prediction of a row that is no answer.
NO_ANSWER = -1


def answered(outputs: Tensor) -> Tensor:
    """Which rows are an answer: no NaN, no +inf, not -inf everywhere. Elsewhere no softmax is defined.

    Shapes      outputs (B, C) -> (B,) bool.

    >>> answered(torch.tensor([[1.0, -torch.inf], [torch.inf, 0.0], [torch.nan, 0.0]]))
    tensor([ True, False, False])
    """
    # The largest entry is NaN where any is.
    return outputs.detach().amax(1).isfinite()


def chosen(outputs: Tensor) -> Tensor:
    """The class of each row alone, (B,) int64, as `decide` has it: `NO_ANSWER` where a row is no answer.

    >>> chosen(torch.tensor([[1e-9, 2e-9], [0.0, torch.nan]]))
    tensor([ 1, -1])
    """
    # The order of logits is the same in float64, so none of them is widened.
    return outputs.detach().argmax(1).masked_fill_(~answered(outputs), NO_ANSWER)


def decide(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each row and the confidence in it, both from float64 whatever the dtype of the outputs.

    Shapes      outputs (B, C) -> (B,) int64, (B,) float64; `NO_ANSWER` and NaN where a row is no answer.
    Ties        equal logits go to the first of them.

    >>> prediction, confidence = decide(torch.tensor([[1e-9, 2e-9], [0.0, torch.nan]]))
    >>> prediction, confidence
    (tensor([ 1, -1]), tensor([0.5000,    nan], dtype=torch.float64))
    """
    precise = outputs.detach().double()
    prediction = chosen(outputs)
    # A softmax that rounding puts above 1 by an ulp is still a probability.
    confidence = precise.softmax(1).amax(1).clamp_max(1.0)
    return prediction, confidence.masked_fill(prediction == NO_ANSWER, torch.nan)
