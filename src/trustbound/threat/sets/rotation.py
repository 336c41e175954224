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

    @staticmethod
    def looked(places: Tensor, spread: Tensor, floor: Tensor, ceiling: Tensor) -> tuple[Tensor, Tensor]:
        """Around where the middle angle takes a place (x, y): h to either side moves x by |x| h²/2 + |y| h at most.

        That is x cos t − y sin t − x for |t| ≤ h; and y likewise.
        """
        angle, half = (floor + ceiling) * (math.pi / 360.0), (ceiling - floor) * (math.pi / 360.0)
        sine, cosine = angle.sin(), angle.cos()
        x, y = places.unbind(2)
        turned = torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=2)
        half = half.unsqueeze(2)
        moved = turned.abs() * half.square() / 2 + turned.abs().flip(2) * half
        own = (cosine.abs().unsqueeze(2) + half).clamp(max=1.0) * spread
        other = (sine.abs().unsqueeze(2) + half).clamp(max=1.0) * spread.flip(2)
        return turned, moved + own + other
