"""A box: limits of its own for every value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.certificates.graph.matrix_operations import MatrixOperation
from trustbound.certificates.region.region import Region, around_ball
from trustbound.certificates.slack import growth, vanished


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxRegion(Region):
    """All x with low ≤ x ≤ high: an l∞ ball, one whose values have radii of their own, or any other box.

    >>> region = Region.around(torch.tensor([[0.2, 0.5]]), (0.0, 1.0), "linf", torch.tensor([[0.5, 0.25]]))
    >>> region.least(torch.tensor([[[1.0, -1.0]]], dtype=torch.float64))
    tensor([[-0.7500]], dtype=torch.float64)
    """

    norm: ClassVar[str] = "linf"
    each: ClassVar[bool] = True

    @classmethod
    def enclose(cls, centre: Tensor, rounded: Tensor, floor: Tensor, ceiling: Tensor, radius: Tensor) -> BoxRegion:
        """Enclose l∞ balls; `radius` (B,) or (B, *F)."""
        radius = radius + apart(centre, rounded, math.inf).reshape(-1, *[1] * (radius.ndim - 1))
        wide = radius if radius.ndim > 1 else radius.reshape(-1, *[1] * (centre.ndim - 1))
        low, high = around_ball(centre, wide, floor, ceiling)
        return cls(inputs=centre, low=low, high=high)

    def spread_of_layer(self, step: MatrixOperation, factor: Tensor, room: Tensor) -> None:
        """Nothing beside the limits."""

    def spread(self, rows: Tensor, factor: Tensor, room: Tensor) -> None:
        """Nothing beside the limits."""

    def lowest(self, rows: Tensor) -> Tensor:
        """Return the corner."""
        return self.corner(rows)

    def inside(self, points: Tensor) -> Tensor:
        """Return the points: all of them are."""
        return points


def apart(inputs: Tensor, rounded: Tensor, order: float) -> Tensor:
    """Bound how far inputs (B, *F) lie from themselves rounded, in the norm of an order: (B,) float64."""
    if inputs is rounded:  # nothing was rounded
        return torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
    away = (inputs - rounded).flatten(1)
    length: Tensor = torch.linalg.vector_norm(away, order, 1)
    return length * (1 + growth(away.shape[1])) + vanished(away.shape[1])
