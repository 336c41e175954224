"""The l0 ball: at most ε coordinates may change, each as far as the box allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.threat.neighbourhood import AdditiveNeighbourhood
from trustbound.threat.random import Random


@dataclass(frozen=True, kw_only=True, eq=False)
class L0Neighbourhood(AdditiveNeighbourhood):
    """At most `radius` changed coordinates; each channel of a pixel counts as one.

    One unit of step moves one coordinate across the box.

    >>> from trustbound.threat import NormBall
    >>> ball = NormBall("l0", 1).around(torch.zeros(1, 3), (0.0, 1.0))
    >>> ball.project(torch.tensor([[0.2, 0.9, 0.4]]))
    tensor([[0.0000, 0.9000, 0.0000]])
    """

    norm: ClassVar[str] = "l0"
    discrete: ClassVar[bool] = True

    def start(self, random: Random, restart: int) -> Tensor:
        """As many random coordinates as allowed, each uniform in the box."""
        shape = tuple(self.inputs.shape[1:])
        rank = random.uniform(shape, restart=restart, draw=0, dtype=torch.float64).flatten(1)
        value = random.uniform(shape, restart=restart, draw=1, dtype=self.inputs.dtype)
        chosen = _largest(rank, self.radius).reshape(self.inputs.shape)
        drawn = (self.low + value * (self.high - self.low)).clamp(self.low, self.high)
        return torch.where(chosen, drawn, self.inputs)

    def project(self, theta: Tensor, radius: Tensor | None = None) -> Tensor:
        """Keep the coordinates whose loss would cost most distance, clipped to the box.

        Keeping coordinate i (clipped to yᵢ) instead of resetting it saves δᵢ² − (θᵢ − yᵢ)².
        """
        reach = self.radius if radius is None else radius
        clipped = theta.clamp(self.low, self.high)
        saved = (theta - self.inputs).square() - (theta - clipped).square()
        keep = _largest(saved.flatten(1), reach).reshape(theta.shape)
        return torch.where(keep, clipped, self.inputs)

    def steepest(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """The sign on the `radius` coordinates that promise most; one unit moves one across the box."""
        free = self.free(theta, gradient)
        room = torch.where(free > 0, self.high - theta, theta - self.low)
        chosen = _largest((free.abs() * room).flatten(1), self.radius).reshape(theta.shape)
        count = self.radius.clamp(min=1.0, max=float(self.inputs[0].numel()))
        return free.sign() * chosen * (self.high - self.low) / self.column(count)

    def norm_of(self, change: Tensor) -> Tensor:
        """How many coordinates differ."""
        return (change != 0).sum(dim=1).to(torch.float64)


def _largest(values: Tensor, counts: Tensor) -> Tensor:
    """Which entries of each row (b, D) are among its `counts` largest; earlier places win ties."""
    order = values.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return rank < counts.floor()[:, None]
