"""The one check of what this room is given: logits and labels of the same examples."""

from __future__ import annotations

import torch
from torch import Tensor

from trustbound.errors import InputError


def check_outputs(logits: Tensor, labels: Tensor, name: str = "logits") -> None:
    """Refuse logits and labels that no score is defined for.

    Raises      InputError for shapes other than (N, C) and (N,), N = 0, C < 2, NaN or infinite logits, labels
                that are not int64 or not in 0..C-1.

    >>> check_outputs(torch.zeros(2, 3), torch.tensor([0, 3]))
    Traceback (most recent call last):
    trustbound.errors.InputError: `labels` must be int64 in 0..2; got torch.int64 in [0, 3]. ...
    """
    if logits.ndim != 2 or logits.shape[0] < 1 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise InputError(
            f"`{name}` must be floating (N, C) with N >= 1 and C >= 2; got {logits.dtype} "
            f"{tuple(logits.shape)}. A single-output network needs a second column of zeros."
        )
    if labels.shape != logits.shape[:1]:
        raise InputError(
            f"`labels` must be (N,) beside `{name}` (N, C); got {tuple(labels.shape)} and "
            f"{tuple(logits.shape)}. Pass one label per example."
        )
    if not bool(torch.isfinite(logits).all()):
        rows = int((~torch.isfinite(logits)).any(1).sum())
        raise InputError(
            f"`{name}` must be finite; got NaN or infinity in {rows} of {len(logits)} rows. "
            "Find the inputs that cause them, or run the network in a wider dtype."
        )
    low, high = int(labels.min()), int(labels.max())
    if labels.dtype != torch.int64 or low < 0 or high >= logits.shape[1]:
        raise InputError(
            f"`labels` must be int64 in 0..{logits.shape[1] - 1}; got {labels.dtype} in [{low}, {high}]. "
            "Check the class order of the data against the model's."
        )
