"""A whole number of values that go anywhere within limits, while the others stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.certificates.graph.matrix_operations import MatrixOperation
from trustbound.certificates.region.region import Region, least_between
from trustbound.certificates.slack import growth


@dataclass(frozen=True, kw_only=True, eq=False)
class L0Region(Region):
    """Points that differ from the inputs in at most `count` coordinates, each anywhere within the box.

    A coordinate is an input value: each channel of a pixel counts as one, as in the search. The least value of
    ⟨a, x⟩ is that of the inputs plus the `count` most negative of min(aᵢ (lowᵢ − cᵢ), aᵢ (highᵢ − cᵢ)): coordinates
    are chosen one by one and none hinders another, so that this is no relaxation. What is lost is lost at the
    neurons, whose limits may each be reached by other coordinates.

    Shapes      count (B,) float64, whole numbers; rounded (B, *F), the inputs as a search holds them: what stays may
                be either.

    >>> region = Region.around(torch.tensor([[0.5, 0.5, 0.9]]), (0.0, 1.0), "l0", 2)
    >>> region.least(torch.tensor([[[2.0, -3.0, 1.0]]], dtype=torch.float64))
    tensor([[-2.1000]], dtype=torch.float64)
    """

    norm: ClassVar[str] = "l0"
    grain: ClassVar[float] = 1.0

    count: Tensor
    rounded: Tensor

    @classmethod
    def enclose(cls, centre: Tensor, rounded: Tensor, floor: Tensor, ceiling: Tensor, radius: Tensor) -> L0Region:
        """Enclose the sets in which so many coordinates change; of sizes between whole numbers the smaller one."""
        count = radius.floor().clamp(max=float(centre[0].numel()) if len(centre) else 0.0)
        some = (count >= 1).reshape(-1, *[1] * (centre.ndim - 1))
        low = torch.where(some, floor, torch.minimum(centre, rounded))
        high = torch.where(some, ceiling, torch.maximum(centre, rounded))
        return cls(inputs=centre, low=low, high=high, count=count, rounded=rounded)

    def least(self, coefficients: Tensor) -> Tensor:
        """Bound ⟨coefficients, x⟩ from below over the set, for K rows (B, K, *F) of each example: (B, K)."""
        rows = coefficients.flatten(2)
        sizes, error = rows.abs(), growth(2 * rows.shape[-1])
        low, high = torch.minimum(self.inputs, self.rounded), torch.maximum(self.inputs, self.rounded)
        downhill = torch.where(
            rows > 0, (low - self.low).flatten(1).unsqueeze(1), (self.high - high).flatten(1).unsqueeze(1)
        )
        gained = self._largest(torch.where(rows == 0, 0.0, sizes * downhill))
        noise = error * torch.bmm(sizes, self.reach.flatten(1).unsqueeze(2)).squeeze(2)
        sparse = least_between(rows, low, high) - (1 + error) * gained - noise
        return torch.fmax(super().least(coefficients), sparse)

    def spread_of_layer(self, step: MatrixOperation, factor: Tensor, room: Tensor) -> Tensor:
        """Multiply the count by the largest that one value can do."""
        sums = step.absolute(factor.unsqueeze(0))
        each = [1] * (sums.ndim - 1)
        if not len(room):
            return sums[:0]
        peaks = torch.stack([step.largest(one) for one in room])  # one by one: none hangs on its neighbours
        return self._stay.reshape(-1, *each) * sums + self.count.reshape(-1, *each) * peaks

    def spread(self, rows: Tensor, factor: Tensor, room: Tensor) -> Tensor:
        """Add up the largest that so many values can do."""
        sizes = rows.abs()
        stay = self._stay.unsqueeze(1) * (sizes * factor).sum(2)
        return stay + self._largest(torch.where(sizes == 0, 0.0, sizes * room.unsqueeze(1)))

    def lowest(self, rows: Tensor) -> Tensor:
        """Change the values that gain most."""
        corner = self.corner(rows)
        return torch.where(self._first((rows * (self.inputs - corner)).flatten(1), rows), corner, self.inputs)

    def inside(self, points: Tensor) -> Tensor:
        """Keep the largest changes."""
        return torch.where(self._first((points - self.inputs).abs().flatten(1), points), points, self.inputs)

    @property
    def _stay(self) -> Tensor:
        """How far a value that does not count as changed may be off, (B,)."""
        return (self.rounded - self.inputs).abs().flatten(1).amax(1)

    def _largest(self, gains: Tensor) -> Tensor:
        """Add up the `count` largest of gains (B, K, N): (B, K)."""
        most = min(int(self.count.amax()), gains.shape[2]) if len(gains) else 0
        rank = torch.arange(most, device=gains.device)
        counted = rank < self.count.reshape(-1, 1, 1)
        return torch.where(counted, gains.topk(most, 2).values, 0.0).sum(2)

    def _first(self, gains: Tensor, like: Tensor) -> Tensor:
        """Which values (B, N) are among the `count` largest, as (B, *F) bool."""
        rank = gains.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (rank < self.count.reshape(-1, 1)).reshape(like.shape)
