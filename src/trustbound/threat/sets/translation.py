"""Pictures shifted along their axes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from trustbound.record.box import Box
from trustbound.threat.sets.transformation import Geometric, check_limit, check_picture


class Translation(Geometric):
    """Shifts a picture by θ = (right, down) pixels, parts of pixels too; what leaves it is lost.

    Reference   Engstrom, Tran, Tsipras, Schmidt and Madry, Exploring the landscape of spatial robustness, 2019
                (1712.02779).

    >>> Translation.back(torch.tensor([[3.0, -1.0]]))[0, :2, 2].tolist()
    [-3.0, 1.0]
    """

    columns: ClassVar[int] = 2

    @staticmethod
    def check(limit: float, box: Box, shape: tuple[int, ...]) -> None:
        """Pictures, and no more than their longer side."""
        check_picture("translation", shape, box)
        check_limit("translation", limit, max(shape[1:]), "pixels")

    @staticmethod
    def back(theta: Tensor) -> Tensor:
        """A shift by as much the other way."""
        still = torch.eye(3, dtype=theta.dtype, device=theta.device)
        return still - functional.pad(theta[:, :, None], (2, 0, 0, 1))

    @staticmethod
    def looked(places: Tensor, spread: Tensor, floor: Tensor, ceiling: Tensor) -> tuple[Tensor, Tensor]:
        """As far the other way, and as uncertain as the shift is."""
        return places - ((floor + ceiling) / 2).unsqueeze(1), spread + ((ceiling - floor) / 2).unsqueeze(1)
