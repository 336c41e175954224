"""Where the adversary may go, as a proof needs it: a norm ball inside the box, enclosed from outside."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.certificates.slack import growth, vanished
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.in_box import placed
from trustbound.record.box import Box, Limit

NORMS = ("linf", "l2", "l1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """Points within `radius` of `inputs` in a norm and between `low` and `high`, all in float64.

    Shapes      inputs, low, high (B, *F); radius (B,), for l∞ also (B, *F).

    For l∞ the region is exactly ball ∩ box. For l2 and l1 `low` and `high` are the limits of ball ∩ box in each
    coordinate, and bounds take the better of ball and limits, row by row.

    >>> region = Region.around(torch.tensor([[0.2, 0.5]]), (0.0, 1.0), "linf", 0.3)
    >>> region.low, region.high
    (tensor([[0.0000, 0.2000]], dtype=torch.float64), tensor([[0.5000, 0.8000]], dtype=torch.float64))
    """

    inputs: Tensor
    low: Tensor
    high: Tensor
    norm: str
    radius: Tensor

    @classmethod
    def around(
        cls,
        inputs: Tensor,
        box: Box | tuple[Limit, Limit],
        norm: str,
        radius: float | Tensor,
    ) -> Region:
        """Enclose ball ∩ box around inputs (B, *F); `radius` is a number or (B,), infinity means the box alone.

        For l∞ it may be (B, *F), one for each value.

        Raises      UnsupportedError for a norm without a proof. InputError for a radius that is negative or NaN
                    and for inputs outside the box; what is outside by rounding is put on the limit, as in a search.
        """
        if norm not in NORMS:
            raise UnsupportedError(f"proofs exist for the norms {', '.join(NORMS)}; got {norm!r}")
        box = Box.of(box)
        centre = placed(inputs.detach(), box).double()
        reach = torch.as_tensor(radius, dtype=torch.float64, device=inputs.device)
        each = reach.ndim > 1 and norm == "linf"
        reach = reach.expand(inputs.shape if each else (len(inputs),))
        if not bool((reach >= 0).all()):
            raise InputError(f"`radius` must be a number ≥ 0 for every example; got {radius}")
        floor, ceiling = (
            torch.as_tensor(limit, dtype=torch.float64, device=inputs.device) for limit in (box.low, box.high)
        )
        # A box of 0.1 means float32(0.1) to whoever holds float32 inputs, a search among them: enclose all.
        for kind in {inputs.dtype, torch.float32}:
            floor = torch.minimum(floor, floor.to(kind).double())
            ceiling = torch.maximum(ceiling, ceiling.to(kind).double())
        wide = reach if each else reach.reshape(-1, *[1] * (inputs.ndim - 1))
        infinity = torch.full_like(centre, math.inf)
        low = torch.maximum(torch.nextafter(centre - wide, -infinity), floor)
        high = torch.minimum(torch.nextafter(centre + wide, infinity), ceiling)
        return cls(inputs=centre, low=low, high=high, norm=norm, radius=reach)

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> Region:
        """Enclose boxes between limits (B, *F) of their own for every feature, exactly: low ≤ high, both finite.

        >>> box = Region.between(torch.tensor([[0.0, -1.0]]), torch.tensor([[0.5, 3.0]]))
        >>> box.least(torch.tensor([[[1.0, -2.0]]], dtype=torch.float64))
        tensor([[-6.0000]], dtype=torch.float64)
        """
        low, high = low.detach().double(), high.detach().double()
        centre = (low + (high - low) / 2).clamp(low, high)
        wide = torch.nextafter((high - low).flatten(1).amax(1), torch.full_like(low.flatten(1)[:, 0], math.inf))
        return cls(inputs=centre, low=low, high=high, norm="linf", radius=wide)

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, rows: Tensor | slice) -> Region:
        """Return the region of some examples."""
        return Region(
            inputs=self.inputs[rows],
            low=self.low[rows],
            high=self.high[rows],
            norm=self.norm,
            radius=self.radius[rows],
        )

    def single(self) -> Region:
        """Return the same in float32, to search in: nearest numbers, not enclosing ones."""
        inputs, low, high, radius = (part.float() for part in (self.inputs, self.low, self.high, self.radius))
        return Region(inputs=inputs, low=low, high=high, norm=self.norm, radius=radius)

    @property
    def middle(self) -> Tensor:
        """The midpoint of the limits, (B, *F)."""
        return (self.low + self.high) / 2

    @property
    def reach(self) -> Tensor:
        """The largest magnitude in each coordinate, (B, *F)."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def least(self, coefficients: Tensor) -> Tensor:
        """Bound ⟨coefficients, x⟩ from below over the region, for K rows (B, K, *F) of each example: (B, K).

        >>> ball = Region.around(torch.tensor([[0.5, 0.5]]), (0.0, 1.0), "l2", 0.25)
        >>> ball.least(torch.tensor([[[0.6, 0.8]]], dtype=torch.float64))
        tensor([[0.4500]], dtype=torch.float64)
        """
        rows = coefficients.flatten(2)
        middle, centre = self.middle.flatten(1).unsqueeze(2), self.inputs.flatten(1).unsqueeze(2)
        sizes = rows.abs()
        error = growth(2 * rows.shape[-1])
        # One product gives the reach of the limits and the rounding error of all that is summed.
        spread = (self.high - self.low).flatten(1).unsqueeze(2) / 2 + error * self.reach.flatten(1).unsqueeze(2)
        bound = (torch.bmm(rows, middle) - (1 + error) * torch.bmm(sizes, spread)).squeeze(2)
        if self.norm != "linf":
            dual = sizes.amax(-1)
            if self.norm == "l2":
                dual = torch.linalg.vector_norm(rows, 2, -1) + vanished(rows.shape[-1])
            noise = error * torch.bmm(sizes, self.reach.flatten(1).unsqueeze(2)).squeeze(2)
            # An infinite ball against a zero row is 0 · ∞: the limits answer for it.
            ball = torch.bmm(rows, centre).squeeze(2) - (1 + error) * self.radius.unsqueeze(1) * dual - noise
            bound = torch.fmax(bound, ball)
        return bound
