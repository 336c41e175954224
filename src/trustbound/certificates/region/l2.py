"""An l2 ball within limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.certificates.graph.matrix_operations import MatrixOperation
from trustbound.certificates.region.ball import BallRegion
from trustbound.certificates.slack import vanished

#: Times that the multiplier is found again because more moves came to their limits.
ROUNDS = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class L2Region(BallRegion):
    """Points at Euclidean distance ≤ `radius` (B,), within limits.

    Every multiplier λ ≥ 0 of the ball gives a bound, Σ min over 0 ≤ m ≤ limit of (λ m² − size · m) − λ radius²; the
    largest over λ is the least value itself.

    Reference   Boyd and Vandenberghe, Convex Optimization, 2004, section 5.1.3.
    """

    norm: ClassVar[str] = "l2"
    order: ClassVar[int] = 2

    def within(self, sizes: Tensor, downhill: Tensor, error: float) -> Tensor:
        """Find the multiplier anew as long as more moves come to their limits; each gives a bound."""
        radius = self.radius.unsqueeze(1)
        free = torch.where(downhill > 0, sizes, 0.0)
        best = torch.full_like(radius.expand(sizes.shape[:2]), -torch.inf)
        left, steep, held = radius.square(), free, torch.zeros_like(free, dtype=torch.bool)
        for _ in range(ROUNDS):
            # λ = ‖what is not at its limit‖ / (2 · what the others leave of the radius)
            multiplier = torch.linalg.vector_norm(steep.detach(), 2, 2, keepdim=True) / (2 * left.sqrt().unsqueeze(2))
            moves = torch.minimum(free / (2 * multiplier), downhill)
            multiplier = multiplier.squeeze(2)
            gained, paid, price = (
                (free * moves).sum(2),
                multiplier * moves.square().sum(2),
                multiplier * radius.square(),
            )
            best = torch.fmax(best, paid - gained - price - 2 * error * (gained + paid + price))
            before, held = held, (moves >= downhill) & (free > 0)
            if bool((held == before).all()):
                break
            left = radius.square() - torch.where(held, downhill, 0.0).square().sum(2)
            steep = torch.where(held, 0.0, free)
        return best

    def spread_of_layer(self, step: MatrixOperation, factor: Tensor, room: Tensor) -> Tensor:
        """Multiply the radius by the length of each row of a layer."""
        lengths = step.squares(factor.square()).sqrt() + vanished(step.terms)
        return self.radius.reshape(-1, *[1] * lengths.ndim) * lengths

    def spread(self, rows: Tensor, factor: Tensor, room: Tensor) -> Tensor:
        """Multiply the radius by the length of each row."""
        weighted = rows * factor
        dual: Tensor = torch.linalg.vector_norm(weighted, 2, 2) + vanished(weighted.shape[2])
        return self.radius.unsqueeze(1) * dual

    def lowest(self, rows: Tensor) -> Tensor:
        """Go the radius against the row, and back into the limits."""
        wide = self.wide(self.radius, rows)
        length = torch.linalg.vector_norm(rows.flatten(1), 2, 1).clamp(min=1e-30).reshape(wide.shape)
        moved = self.inputs - (wide * rows / length).nan_to_num(0.0)
        return torch.minimum(torch.maximum(moved, self.low), self.high)
