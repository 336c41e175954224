"""Where the adversary may go, as a proof needs it: a norm ball inside the box, enclosed from outside."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.certificates.slack import growth
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.in_box import placed
from trustbound.record.box import Box, Limit

NORMS = ("linf", "l2", "l1")

#: Times that an l2 ball's multiplier is found again because more moves came to their limits.
ROUNDS = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """Points within `radius` of `inputs` in a norm and between `low` and `high`, all in float64.

    Shapes      inputs, low, high (B, *F); radius (B,), for l∞ also (B, *F).

    For l∞ the region is exactly ball ∩ box. For l2 and l1 `low` and `high` are the limits of ball ∩ box in each
    coordinate, and bounds are over the ball within them.

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
            noise = error * torch.bmm(sizes, self.reach.flatten(1).unsqueeze(2)).squeeze(2)
            low, high = (side.flatten(1).unsqueeze(1) - centre.mT for side in (self.low, self.high))
            downhill = torch.where(rows > 0, -low, high)
            ball = _within_ball(sizes, downhill, self.radius.unsqueeze(1), self.norm, error)
            # NaN where nothing is known of the ball, as of an infinite one: the limits answer for it.
            bound = torch.fmax(bound, torch.bmm(rows, centre).squeeze(2) + ball - noise)
        return bound


def _within_ball(sizes: Tensor, downhill: Tensor, radius: Tensor, norm: str, error: float) -> Tensor:
    """Bound −Σ sizes · moves from below, (B, K), over moves in an l2 or l1 ball of which each has a limit of its own.

    Every multiplier λ ≥ 0 of the ball gives a bound, Σ min over 0 ≤ m ≤ limit of (λ f(m) − size · m) − λ f(radius) with
    f(m) = m² or m; the largest over λ is the least value itself. What cannot move downhill costs nothing: of a picture
    whose pixels are black or white the dual norm has half the terms.

    Shapes      sizes, downhill (B, K, F), nowhere negative; radius (B, 1).
    Reference   Boyd and Vandenberghe, Convex Optimization, 2004, section 5.1.3; of l1 balls in a box Croce and Hein,
                Mind the Box, 2021, arXiv:2103.01208, section 2.
    """
    free = torch.where(downhill > 0, sizes, 0.0)
    if norm == "l1":
        return _within_l1(free, downhill, radius, error)
    best = torch.full_like(radius.expand(sizes.shape[:2]), -torch.inf)
    left, steep, held = radius.square(), free, torch.zeros_like(free, dtype=torch.bool)
    for _ in range(ROUNDS):
        # λ = ‖what is not at its limit‖ / (2 · what the others leave of the radius)
        multiplier = torch.linalg.vector_norm(steep.detach(), 2, 2, keepdim=True) / (2 * left.sqrt().unsqueeze(2))
        moves = torch.minimum(free / (2 * multiplier), downhill)
        multiplier = multiplier.squeeze(2)
        gained, paid, price = (free * moves).sum(2), multiplier * moves.square().sum(2), multiplier * radius.square()
        best = torch.fmax(best, paid - gained - price - 2 * error * (gained + paid + price))
        before, held = held, (moves >= downhill) & (free > 0)
        if bool((held == before).all()):
            break
        left = radius.square() - torch.where(held, downhill, 0.0).square().sum(2)
        steep = torch.where(held, 0.0, free)
    return best


def _within_l1(free: Tensor, downhill: Tensor, radius: Tensor, error: float) -> Tensor:
    """Do so for an l1 ball: the steepest go to their limits until the ball is used up; λ is how steep the last is."""
    steepest, order = free.detach().sort(2, descending=True)
    used = downhill.gather(2, order).cumsum(2)
    last = (used < radius.unsqueeze(2)).sum(2, keepdim=True).clamp(max=free.shape[2] - 1)
    multiplier = steepest.gather(2, last)
    gained, price = ((free - multiplier).clamp(min=0) * downhill).sum(2), multiplier.squeeze(2) * radius
    return -gained - price - 2 * error * (gained + price)
