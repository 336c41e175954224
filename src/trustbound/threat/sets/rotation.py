"""Pictures turned about their centre."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.record.box import Box
from trustbound.threat.sets.transformation import Geometric, check_limit, check_picture


class Rotation(Geometric):
    """Turns a picture anticlockwise by θ degrees; the corners that leave it are lost.

    Reference   Engstrom, Tran, Tsipras, Schmidt and Madry, Exploring the landscape of spatial robustness, 2019
                (1712.02779).

    >>> Rotation.back(torch.tensor([[90.0]]))[0, :2, :2].round().abs().tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    columns: ClassVar[int] = 1

    @staticmethod
    def check(limit: float, box: Box, shape: tuple[int, ...]) -> None:
        """Pictures, and no more than half a turn."""
        check_picture("rotation", shape, box)
        check_limit("rotation", limit, 180.0, "degrees")

    @staticmethod
    def back(theta: Tensor) -> Tensor:
        """A turn by as much the other way."""
        angle = theta[:, 0] * (math.pi / 180.0)
        sine, cosine = angle.sin(), angle.cos()
        none, one = torch.zeros_like(angle), torch.ones_like(angle)
        rows = ((cosine, -sine, none), (sine, cosine, none), (none, none, one))
        return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
