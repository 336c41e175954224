"""Rows that were granted a call, among all that asked for it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from trustbound.attacks.model_access.compiled import SurrogateLoss
from trustbound.attacks.model_access.surrogate import OnOutputs

Surrogate = Callable[[Tensor, slice], Tensor]


def chosen(surrogate: Surrogate, granted: Tensor) -> Surrogate:
    """A surrogate of all rows as one of those that were granted."""
    if isinstance(surrogate, SurrogateLoss | OnOutputs):
        return surrogate.select(granted)
    return lambda outputs, rows: surrogate(outputs, granted[rows])  # type: ignore[arg-type]


def spread(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Values of some rows (k, …) among zeros (count, …).

    >>> import torch
    >>> spread(torch.tensor([5.0]), torch.tensor([1]), 3)
    tensor([0., 5., 0.])
    """
    return values.new_zeros(count, *values.shape[1:]).index_copy_(0, rows, values)


def given(theta: Tensor, rows: Tensor | slice) -> Tensor:
    """What an additive set makes of θ."""
    return theta
