"""Pictures resized and padded at random: other answers each time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trustbound.errors import InputError
from trustbound.model.defences.adaptation import around


class RandomResize(nn.Module):
    """Resize to a random size, pad with zeros at a random place, then run the network.

    Parameters  low, high   the side after resizing is drawn from low..high, both included.
                padded      the side that the network sees, at least `high`; `high` unless given.
                draws       how many forwards an informed attacker averages for one gradient.
    Adaptation  `draws` gradients are averaged (expectation over transformation).
    Randomness  torch's global generator: one size and one place for each call, as published.
    Reference   Xie et al., Mitigating Adversarial Effects Through Randomization, 2018.
    Deviations  nearest-neighbour resizing of square pictures only.
    """

    def __init__(self, network: nn.Module, *, low: int, high: int, padded: int | None = None, draws: int = 20) -> None:
        super().__init__()
        padded = high if padded is None else padded
        if not 1 <= low <= high <= padded:
            raise InputError(f"1 ≤ low ≤ high ≤ padded is needed; got {low}, {high}, {padded}")
        self.network = network
        self.low, self.high, self.padded = low, high, padded
        self.adaptation = around(network, draws=draws)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, channels, H, W) → what the network returns for (B, channels, padded, padded)."""
        side = int(torch.randint(self.low, self.high + 1, ()))
        free = self.padded - side
        left, top = int(torch.randint(0, free + 1, ())), int(torch.randint(0, free + 1, ()))
        resized = functional.interpolate(inputs, size=(side, side), mode="nearest")
        outputs: Tensor = self.network(functional.pad(resized, (left, free - left, top, free - top)))
        return outputs
