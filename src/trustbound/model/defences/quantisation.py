"""Inputs rounded to a few levels: the gradient is zero almost everywhere."""

from __future__ import annotations

from torch import Tensor, nn

from trustbound.errors import InputError
from trustbound.model.defences.adaptation import around


def identity(inputs: Tensor) -> Tensor:
    """The stand-in for a step that changes its input little."""
    return inputs


class Quantise(nn.Module):
    """Round values of the box to `levels` evenly spaced ones; the gradient is zero almost everywhere."""

    def __init__(self, levels: int, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        if levels < 2:
            raise InputError(f"`levels` must be at least 2; got {levels}")
        self.levels, self.low, self.high = levels, low, high

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → (B, *F)."""
        scale = (self.levels - 1) / (self.high - self.low)
        return ((inputs - self.low) * scale).round() / scale + self.low


class InputQuantisation(nn.Module):
    """Quantise the input, then run the network.

    Adaptation  the identity stands in for the rounding in the backward pass.
    Reference   Guo et al., Countering Adversarial Images Using Input Transformations, 2018 (bit depth).

    >>> import torch
    >>> defended = InputQuantisation(nn.Linear(2, 2), levels=4)
    >>> defended.quantise(torch.tensor([0.0, 0.4, 0.6, 1.0]))
    tensor([0.0000, 0.3333, 0.6667, 1.0000])
    >>> list(defended.adaptation.stand_ins)
    ['quantise']
    """

    def __init__(self, network: nn.Module, *, levels: int, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.quantise = Quantise(levels, low, high)
        self.network = network
        self.adaptation = around(network, stand_ins={"quantise": identity})

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → what the network returns."""
        outputs: Tensor = self.network(self.quantise(inputs))
        return outputs
