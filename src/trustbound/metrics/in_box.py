"""One rule for what lies in the box: searches, proofs, labelled sets and tables all ask here."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trustbound.errors import InputError
from trustbound.record.box import Box

#: Values this far outside the box, in units of each feature's width, are rounding of an earlier step.
ROUNDING = 1e-6


def outside(inputs: Tensor, box: Box) -> Tensor:
    """Which values lie outside the box by more than rounding, or are no numbers: bool (B, *F).

    A limit that the inputs' own precision cannot hold is the nearest value that it can.

    >>> outside(torch.tensor([[0.5, 1.0000005, 1.00001, float("nan")]]), Box(0.0, 1.0))
    tensor([[False, False,  True,  True]])
    """
    low, high = _limits(box, inputs, torch.float64)
    slack = ROUNDING * (high - low)
    return ~((inputs >= (low - slack).to(inputs.dtype)) & (inputs <= (high + slack).to(inputs.dtype)))


def placed(inputs: Tensor, box: Box) -> Tensor:
    """The inputs (B, *F) inside the box: what is outside by rounding is put on the limit, the rest is as it came.

    A search and a proof of the same inputs both start from what this returns.

    Raises      InputError when a value lies further outside, or is no number, and for a box of other features.

    >>> placed(torch.tensor([[-5e-7, 0.3]]), Box(0.0, 1.0))
    tensor([[0.0000, 0.3000]])
    """
    low, high = _limits(box, inputs, inputs.dtype)
    if bool(((inputs >= low) & (inputs <= high)).all()):
        return inputs
    if bool(outside(inputs, box).any()):
        raise InputError(
            f"`inputs` must lie in the box [{float(low.min()):g}, {float(high.max()):g}]; got "
            f"[{float(inputs.min()):.7g}, {float(inputs.max()):.7g}], shape {tuple(inputs.shape)}. "
            "If you normalise outside the model, pass mean and std to wrap or load_model instead; for another "
            "range pass `box`."
        )
    return inputs.clamp(low, high)


def check_fits(inputs: Tensor, box: Box) -> None:
    """Refuse a box whose limits are not of the features of inputs (B, *F).

    >>> check_fits(torch.zeros(5, 3), Box([0.0, 0.0], [1.0, 2.0]))
    Traceback (most recent call last):
    trustbound.errors.InputError: the box must have limits for the features (3,) of one input; ...
    """
    features = tuple(inputs.shape[1:])
    for limit in (np.shape(box.low), np.shape(box.high)):
        try:
            fits = np.broadcast_shapes(limit, features) == features
        except ValueError:
            fits = False
        if not fits:
            raise InputError(
                f"the box must have limits for the features {features} of one input; got limits of shape {limit}. "
                "Give numbers, or arrays that broadcast to one input."
            )


def _limits(box: Box, inputs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    check_fits(inputs, box)
    low, high = (torch.as_tensor(limit, dtype=torch.float64, device=inputs.device) for limit in (box.low, box.high))
    return low.to(dtype), high.to(dtype)
