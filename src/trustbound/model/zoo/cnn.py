"""The two convolutional networks on which certification papers compare."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from trustbound.errors import InputError
from trustbound.model.zoo.activation import activation_of


def cnn_small(input_shape: Sequence[int] = (1, 28, 28), classes: int = 10, activation: str = "relu") -> nn.Sequential:
    """Two 4×4 convolutions of stride 2 (16 and 32 channels), one hidden layer of 100.

    Reference   Wong and Kolter, Provable Defenses against Adversarial Examples via the Convex Outer
                Adversarial Polytope, 2018: the MNIST network.
    """
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        activation_of(activation),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        activation_of(activation),
        nn.Flatten(),
        nn.Linear(32 * _quartered(height, width), 100),
        activation_of(activation),
        nn.Linear(100, classes),
    )


def cnn_large(input_shape: Sequence[int] = (1, 28, 28), classes: int = 10, activation: str = "relu") -> nn.Sequential:
    """Four convolutions (32, 32, 64, 64 channels; the second and fourth of stride 2), two hidden layers of 512.

    Reference   Wong, Schmidt, Metzen and Kolter, Scaling Provable Adversarial Defenses, 2018: "large".
    """
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, stride=1, padding=1),
        activation_of(activation),
        nn.Conv2d(32, 32, 4, stride=2, padding=1),
        activation_of(activation),
        nn.Conv2d(32, 64, 3, stride=1, padding=1),
        activation_of(activation),
        nn.Conv2d(64, 64, 4, stride=2, padding=1),
        activation_of(activation),
        nn.Flatten(),
        nn.Linear(64 * _quartered(height, width), 512),
        activation_of(activation),
        nn.Linear(512, 512),
        activation_of(activation),
        nn.Linear(512, classes),
    )


def _quartered(height: int, width: int) -> int:
    """Positions left after two 4×4 convolutions of stride 2 and padding 1: each side halved twice, rounded down."""
    if min(height, width) < 4:
        raise InputError(f"`input_shape` must have sides of at least 4; got {height}×{width}")
    return (height // 2 // 2) * (width // 2 // 2)
