"""The l2 ball: the Euclidean length of the change is at most ε."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.threat.neighbourhood import AdditiveNeighbourhood
from trustbound.threat.random import Random

# Relative shrink after projection: float32 sums over up to 10^6 coordinates stay inside ε by it.
_INWARD = 1.0 - 2.0**-21


@dataclass(frozen=True, kw_only=True, eq=False)
class L2Neighbourhood(AdditiveNeighbourhood):
    """Euclidean ball ∩ box.

    >>> from trustbound.threat import NormBall
    >>> ball = NormBall("l2", 1.0).around(torch.zeros(1, 2), (0.0, 1.0))
    >>> ball.project(torch.tensor([[3.0, 4.0]])).round(decimals=3)
    tensor([[0.6000, 0.8000]])
    """

    norm: ClassVar[str] = "l2"

    def start(self, random: Random, restart: int) -> Tensor:
        """Uniform in the ball, then projected onto the box."""
        shape = tuple(self.inputs.shape[1:])
        direction = random.normal(shape, restart=restart, draw=0, dtype=self.inputs.dtype)
        share = random.uniform((1,), restart=restart, draw=1, dtype=torch.float64)[:, 0]
        length = self.radius.clamp(max=_diagonal(self)) * share ** (1.0 / self.inputs[0].numel())
        return self.project(self.inputs + unit_length(direction) * self.column(length))

    def project(self, theta: Tensor, radius: Tensor | None = None) -> Tensor:
        """Exact projection: clip(x + μ δ) with the μ ≤ 1 that makes the length ε.

        The Lagrangian min ‖y − θ‖² + λ(‖y − x‖² − ε²) over the box separates into
        y = clip(x + (θ − x)/(1 + λ)). The length grows with μ = 1/(1 + λ); with the clipped set fixed it is
        solved in closed form, and from below the clipped set only grows: finitely many rounds, exact.
        """
        reach = self.radius if radius is None else radius
        clipped = theta.clamp(self.low, self.high)
        change = (clipped - self.inputs).flatten(1)
        outside = change.norm(dim=1).to(torch.float64) > reach * _INWARD
        if not bool(outside.any()):
            return clipped
        rows = outside.nonzero()[:, 0]
        start, wish = self.inputs[rows], theta[rows] - self.inputs[rows]
        lowest, highest = (self.low - start).flatten(1), (self.high - start).flatten(1)
        step = _shrunk(wish.flatten(1), lowest, highest, (reach[rows] * _INWARD).to(theta.dtype))
        moved = (start + step.reshape(start.shape)).clamp_(self.low, self.high)
        clipped[rows] = moved
        return clipped

    def steepest(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """The free gradient at unit length."""
        return unit_length(self.free(theta, gradient))

    def norm_of(self, change: Tensor) -> Tensor:
        """Euclidean length."""
        length: Tensor = torch.linalg.vector_norm(change, dim=1)
        return length


def unit_length(vectors: Tensor) -> Tensor:
    """Each row at Euclidean length 1; rows of zeros stay zeros."""
    flat = vectors.flatten(1)
    # Scaled by the largest entry first: gradients of 1e-30 have squares that vanish in float32.
    largest = flat.abs().amax(dim=1, keepdim=True)
    tiny = torch.finfo(flat.dtype).tiny
    scaled = flat / largest.clamp(min=tiny)
    length: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return (scaled / length.clamp(min=tiny)).reshape(vectors.shape)


def _shrunk(wish: Tensor, lowest: Tensor, highest: Tensor, reach: Tensor) -> Tensor:
    """clip(μ · wish) with length `reach`, rows (b, D); every row is longer than that at μ = 1."""
    tiny = torch.finfo(wish.dtype).tiny
    scale = reach / wish.norm(dim=1).clamp(min=tiny)
    for _ in range(64):
        stretched = wish * scale[:, None]
        held = (stretched < lowest) | (stretched > highest)
        stopped = stretched.clamp(lowest, highest).masked_fill(~held, 0.0)
        moving = wish.masked_fill(held, 0.0).norm(dim=1)
        rest = (reach**2 - stopped.square().sum(dim=1)).clamp(min=0.0).sqrt()
        raised = torch.where(moving > 0, rest / moving.clamp(min=tiny), scale).clamp(max=1.0)
        grown = raised > scale * (1.0 + 1e-6)
        if not bool(grown.any()):
            break
        # Rows that have arrived stay as they are, however many rounds their neighbours need.
        scale = torch.where(grown, raised, scale)
    step: Tensor = (wish * scale[:, None]).clamp(lowest, highest)
    length: Tensor = torch.linalg.vector_norm(step.to(torch.float64), dim=1)
    shorter: Tensor = (reach / length.clamp(min=tiny)).clamp(max=1.0).to(step.dtype)
    return step * shorter[:, None]


def _diagonal(ball: AdditiveNeighbourhood) -> float:
    """The box's diagonal: the longest change there is."""
    side = (ball.high - ball.low).to(torch.float64).expand(ball.inputs.shape[1:])
    return float(side.norm())
