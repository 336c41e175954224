"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from trustbound.errors import InputError
from trustbound.model.zoo.activation import activation_of


def fully_connected(
    widths: Sequence[int] = (200, 200),
    input_shape: Sequence[int] = (1, 28, 28),
    classes: int = 10,
    activation: str = "relu",
) -> nn.Sequential:
    """Flatten, then linear layers of the hidden `widths` with an activation after each, then the logits.

    >>> fully_connected(widths=[5], input_shape=[4], classes=3)[1]
    Linear(in_features=4, out_features=5, bias=True)
    """
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise InputError(f"`widths` must be whole numbers, one per hidden layer; got {widths!r}")
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((math.prod(input_shape), *widths)):
        layers += [nn.Linear(before, after), activation_of(activation)]
    last = widths[-1] if len(widths) else math.prod(input_shape)
    return nn.Sequential(*layers, nn.Linear(last, classes))
