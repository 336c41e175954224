"""What l2 and l1 balls within limits have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from trustbound.certificates.region.limits import apart
from trustbound.certificates.region.region import Region, around_ball
from trustbound.certificates.slack import growth

B = TypeVar("B", bound="BallRegion")


@dataclass(frozen=True, kw_only=True, eq=False)
class BallRegion(Region):
    """Points within `radius` (B,) of the inputs in a norm of an order, and between the limits of ball ∩ box."""

    order: ClassVar[int]

    radius: Tensor

    @classmethod
    def enclose(cls: type[B], centre: Tensor, rounded: Tensor, floor: Tensor, ceiling: Tensor, radius: Tensor) -> B:
        """Enclose balls of radii (B,)."""
        radius = radius + apart(centre, rounded, cls.order)
        low, high = around_ball(centre, radius.reshape(-1, *[1] * (centre.ndim - 1)), floor, ceiling)
        return cls(inputs=centre, low=low, high=high, radius=radius)

    @abstractmethod
    def within(self, sizes: Tensor, downhill: Tensor, error: float) -> Tensor:
        """Bound −Σ sizes · moves from below, (B, K), over moves in the ball of which each has a limit of its own.

        What cannot move downhill costs nothing: of a picture whose pixels are black or white the dual norm has half
        the terms.

        Shapes      sizes, downhill (B, K, F), nowhere negative.
        """

    def least(self, coefficients: Tensor) -> Tensor:
        """Bound ⟨coefficients, x⟩ from below over ball and limits, for K rows (B, K, *F) of each example: (B, K)."""
        rows = coefficients.flatten(2)
        sizes, centre = rows.abs(), self.inputs.flatten(1).unsqueeze(2)
        error = growth(2 * rows.shape[-1])
        noise = error * torch.bmm(sizes, self.reach.flatten(1).unsqueeze(2)).squeeze(2)
        low, high = (side.flatten(1).unsqueeze(1) - centre.mT for side in (self.low, self.high))
        downhill = torch.where(rows > 0, -low, high)
        ball = self.within(sizes, downhill, error)
        # NaN where nothing is known of the ball, as of an infinite one: the limits answer for it.
        return torch.fmax(super().least(coefficients), torch.bmm(rows, centre).squeeze(2) + ball - noise)

    def inside(self, points: Tensor) -> Tensor:
        """Pull points of the limits towards the centre, which keeps them within the limits."""
        away = points - self.inputs
        size = torch.linalg.vector_norm(away.flatten(1), self.order, 1)
        share = ((1 - 1e-12) * self.radius / size.clamp(min=1e-300)).clamp(max=1.0)
        inner = self.inputs + away * self.wide(share, points)
        return torch.minimum(torch.maximum(inner, self.low), self.high)

    @staticmethod
    def wide(values: Tensor, like: Tensor) -> Tensor:
        """Return numbers (B,) as (B, 1, …), to stand beside (B, *F)."""
        return values.reshape(-1, *[1] * (like.ndim - 1))
