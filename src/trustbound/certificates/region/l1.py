"""An l1 ball within limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.certificates.graph.matrix_operations import MatrixOperation
from trustbound.certificates.region.ball import BallRegion


@dataclass(frozen=True, kw_only=True, eq=False)
class L1Region(BallRegion):
    """Points whose absolute changes add up to at most `radius` (B,), within limits.

    The least value moves the steepest values to their limits until the ball is used up; as of l2, any multiplier λ ≥ 0
    gives a bound, and the best one is how steep the last of them is.

    Reference   Croce and Hein, Mind the Box, 2021, arXiv:2103.01208, section 2.
    """

    norm: ClassVar[str] = "l1"
    order: ClassVar[int] = 1

    def within(self, sizes: Tensor, downhill: Tensor, error: float) -> Tensor:
        """Take the multiplier of the value at which the ball is used up."""
        free = torch.where(downhill > 0, sizes, 0.0)
        radius = self.radius.unsqueeze(1)
        steepest, order = free.detach().sort(2, descending=True)
        used = downhill.gather(2, order).cumsum(2)
        last = (used < radius.unsqueeze(2)).sum(2, keepdim=True).clamp(max=free.shape[2] - 1)
        multiplier = steepest.gather(2, last)
        gained, price = ((free - multiplier).clamp(min=0) * downhill).sum(2), multiplier.squeeze(2) * radius
        return -gained - price - 2 * error * (gained + price)

    def spread_of_layer(self, step: MatrixOperation, factor: Tensor, room: Tensor) -> Tensor:
        """Multiply the radius by the largest weight of each row of a layer."""
        rows = step.largest(factor)
        return self.radius.reshape(-1, *[1] * rows.ndim) * rows

    def spread(self, rows: Tensor, factor: Tensor, room: Tensor) -> Tensor:
        """Multiply the radius by the largest coefficient of each row."""
        return self.radius.unsqueeze(1) * (rows * factor).abs().amax(2)

    def lowest(self, rows: Tensor) -> Tensor:
        """Spend the radius on the steepest value, and go back into the limits."""
        flat = rows.flatten(1)
        peak = torch.zeros_like(flat).scatter_(1, flat.abs().argmax(1, keepdim=True), 1.0).reshape(rows.shape)
        moved = self.inputs - (self.wide(self.radius, rows) * rows.sign() * peak).nan_to_num(0.0)
        return torch.minimum(torch.maximum(moved, self.low), self.high)
