"""What a declared detector says of inputs: which of them the defence rejects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trustbound.errors import InputError


def verdicts(detector: Callable[[Tensor], Any], points: Tensor) -> Tensor:
    """Which of the points (R, *F) it rejects, (R,) bool.

    Raises      InputError when it answers anything else.

    >>> verdicts(lambda inputs: inputs.amax(1) > 0.9, torch.tensor([[0.5, 0.95], [0.1, 0.2]]))
    tensor([ True, False])
    """
    verdict = torch.as_tensor(detector(points), device=points.device)
    if verdict.dtype == torch.bool and verdict.shape == points.shape[:1]:
        return verdict
    raise InputError(
        "a detector must answer inputs (B, *F) with (B,) bool, True where it rejects them; for inputs of shape "
        f"{tuple(points.shape)} it gave {verdict.dtype} of shape {tuple(verdict.shape)}"
    )
