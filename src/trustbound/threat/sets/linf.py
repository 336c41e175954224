"""The l∞ ball: every coordinate may move by ε."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.threat.neighbourhood import AdditiveNeighbourhood
from trustbound.threat.random import Random


@dataclass(frozen=True, kw_only=True, eq=False)
class LinfNeighbourhood(AdditiveNeighbourhood):
    """Ball ∩ box is a box of its own: `floor` and `ceiling` (B, *F), computed once, rounded inward.

    >>> from trustbound.threat import NormBall
    >>> ball = NormBall("linf", 8 / 255).around(torch.full((1, 2), 100 / 255), (0.0, 1.0))
    >>> ball.size(ball.project(torch.ones(1, 2))) <= 8 / 255
    tensor([True])
    """

    norm: ClassVar[str] = "linf"

    floor: Tensor
    ceiling: Tensor

    def start(self, random: Random, restart: int) -> Tensor:
        """Uniform in ball ∩ box."""
        share = random.uniform(tuple(self.inputs.shape[1:]), restart=restart, draw=0, dtype=self.inputs.dtype)
        return torch.lerp(self.floor, self.ceiling, share).clamp_(self.floor, self.ceiling)

    def project(self, theta: Tensor, radius: Tensor | None = None) -> Tensor:
        """Clip to the limits."""
        if radius is not None:
            floor, ceiling = limits(self.inputs, self.low, self.high, radius)
            return theta.clamp_(floor, ceiling)
        return theta.clamp_(self.floor, self.ceiling)

    def steepest(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """The sign; the clip that follows keeps coordinates at a limit where they are."""
        return gradient.sign_()

    def norm_of(self, change: Tensor) -> Tensor:
        """Largest absolute coordinate."""
        return change.abs().amax(dim=1)

    def select(self, rows: Tensor) -> LinfNeighbourhood:
        """The same ball around some of the examples."""
        return dataclasses.replace(
            self,
            inputs=self.inputs[rows],
            radius=self.radius[rows],
            floor=self.floor[rows],
            ceiling=self.ceiling[rows],
        )


def limits(inputs: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and highest allowed inputs, rounded towards the clean input; `radius` (B,), or (B, *F) one a value."""
    exact = inputs.to(torch.float64)
    reach = radius if radius.dim() == inputs.dim() else radius.reshape(-1, *(1,) * (inputs.dim() - 1))
    floor, ceiling = exact - reach, exact + reach
    below, above = floor.to(inputs.dtype), ceiling.to(inputs.dtype)
    below = torch.where(below.to(torch.float64) < floor, torch.nextafter(below, inputs), below)
    above = torch.where(above.to(torch.float64) > ceiling, torch.nextafter(above, inputs), above)
    return torch.maximum(below, low), torch.minimum(above, high)
