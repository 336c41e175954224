"""Inputs made brighter or darker as a whole."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from trustbound.record.box import Box
from trustbound.threat.sets.transformation import Pointwise, check_limit


class Brightness(Pointwise):
    """Adds θ, one number in input units, to every value and clips the sum to the box.

    >>> import torch
    >>> zero, one = torch.zeros(()), torch.ones(())
    >>> Brightness.apply(torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5]]), zero, one).tolist()
    [[0.75, 1.0]]
    """

    columns: ClassVar[int] = 1

    @staticmethod
    def check(limit: float, box: Box, shape: tuple[int, ...]) -> None:
        """No more than the box is wide."""
        check_limit("brightness", limit, box.width, "input units")

    @staticmethod
    def apply(inputs: Tensor, theta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The clipped sum."""
        return (inputs + theta.reshape(-1, *(1,) * (inputs.dim() - 1))).clamp(low, high)

    @staticmethod
    def limits(
        lowest: Tensor, highest: Tensor, floor: Tensor, ceiling: Tensor, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The clipped sums of the least, and of the largest."""
        return Brightness.apply(lowest, floor, low, high), Brightness.apply(highest, ceiling, low, high)
