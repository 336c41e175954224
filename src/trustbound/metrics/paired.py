"""One number and one truth per example, as float64 arrays: what scores over a whole data set take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trustbound.errors import InputError

Floats = NDArray[np.float64]


def paired(score: Tensor, truth: Tensor) -> tuple[Floats, Floats]:
    """Both as float64 arrays (N,), refused when empty, of unequal shape, or not a number.

    >>> import torch
    >>> paired(torch.tensor([0.5]), torch.tensor([True]))
    (array([0.5]), array([1.]))
    """
    if score.ndim != 1 or score.shape != truth.shape or not len(score):
        raise InputError(
            "scores and truths must both be (N,) with N >= 1; got "
            f"{tuple(score.shape)} and {tuple(truth.shape)}. Pass one number and one truth per example."
        )
    values = score.detach().cpu().double().numpy()
    if np.isnan(values).any():
        raise InputError(
            f"scores must be numbers; got {int(np.isnan(values).sum())} NaN of {len(values)}. "
            "Find the examples whose outputs are not finite first."
        )
    return values, truth.detach().cpu().double().numpy()
