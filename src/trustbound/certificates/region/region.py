"""What a proof asks of a set of inputs: limits, its support function, and a few questions that follow from it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from trustbound.certificates.graph.matrix_operations import MatrixOperation
from trustbound.certificates.region.registry import REGIONS
from trustbound.certificates.slack import growth
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.in_box import placed
from trustbound.record.box import Box, Limit

R = TypeVar("R", bound="Region")


@dataclass(frozen=True, kw_only=True, eq=False)
class Region(ABC):
    """A set around each of a batch of inputs, enclosed from outside, all in float64.

    A kind of set is a class with a row in the registry of regions: it says how it is made (`enclose`) and what its
    least value of a linear function is (`least`, the support function of its negated coefficients); the rest is for
    intervals (`spread`, `spread_of_layer`) and for who looks for points (`lowest`, `inside`).

    Shapes      inputs, low, high (B, *F): the centres, and the limits of the set in each coordinate. Whatever else a
                kind holds is (B, *F), or (B,) where it is one number for each example.

    >>> region = Region.around(torch.tensor([[0.2, 0.5]]), (0.0, 1.0), "linf", 0.3)
    >>> region.low, region.high
    (tensor([[0.0000, 0.2000]], dtype=torch.float64), tensor([[0.5000, 0.8000]], dtype=torch.float64))
    """

    norm: ClassVar[str]
    grain: ClassVar[float] = 0.0
    each: ClassVar[bool] = False

    inputs: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def around(
        inputs: Tensor,
        box: Box | tuple[Limit, Limit],
        norm: str,
        radius: float | Tensor,
        working: torch.dtype | None = None,
    ) -> Region:
        """Enclose ball ∩ box around inputs (B, *F); `radius` is a number or (B,), infinity means the box alone.

        For l∞ it may be (B, *F), one for each value. With `working`, the precision of a search, the balls around the
        inputs as that rounds them are enclosed as well.

        Raises      UnsupportedError for a norm without a proof. InputError for a radius that is negative or NaN
                    and for inputs outside the box; what is outside by rounding is put on the limit, as in a search.
        """
        if norm not in REGIONS.names:
            raise UnsupportedError(f"proofs exist for the norms {', '.join(REGIONS.names)}; got {norm!r}")
        kind: type[Region] = REGIONS.load(norm)
        box = Box.of(box)
        given = placed(inputs.detach(), box)
        centre = given.double()
        rounded = centre if working is None else given.to(working).double()
        reach = torch.as_tensor(radius, dtype=torch.float64, device=inputs.device)
        reach = reach.expand(inputs.shape if reach.ndim > 1 and kind.each else (len(inputs),))
        if not bool((reach >= 0).all()):
            raise InputError(f"`radius` must be a number ≥ 0 for every example; got {radius}")
        floor, ceiling = (
            torch.as_tensor(limit, dtype=torch.float64, device=inputs.device) for limit in (box.low, box.high)
        )
        # A box of 0.1 means float32(0.1) to whoever holds float32 inputs, a search among them: enclose all.
        for kept in {inputs.dtype, torch.float32}:
            floor = torch.minimum(floor, floor.to(kept).double())
            ceiling = torch.maximum(ceiling, ceiling.to(kept).double())
        return kind.enclose(centre, rounded, floor, ceiling, reach)

    @staticmethod
    def between(low: Tensor, high: Tensor) -> Region:
        """Enclose boxes between limits (B, *F) of their own for every feature, exactly: low ≤ high, both finite.

        >>> box = Region.between(torch.tensor([[0.0, -1.0]]), torch.tensor([[0.5, 3.0]]))
        >>> box.least(torch.tensor([[[1.0, -2.0]]], dtype=torch.float64))
        tensor([[-6.0000]], dtype=torch.float64)
        """
        low, high = low.detach().double(), high.detach().double()
        boxes: type[Region] = REGIONS.load("linf")
        return boxes(inputs=(low + (high - low) / 2).clamp(low, high), low=low, high=high)

    @classmethod
    @abstractmethod
    def enclose(cls, centre: Tensor, rounded: Tensor, floor: Tensor, ceiling: Tensor, radius: Tensor) -> Region:
        """Enclose the sets of sizes `radius` around centres (B, *F), and around those rounded, in a box."""

    @abstractmethod
    def spread_of_layer(self, step: MatrixOperation, factor: Tensor, room: Tensor) -> Tensor | None:
        """Bound how far a layer's values (B, *O) go from those at the inputs, but for rounding; without the limits.

        Each of the layer's operands (*F) is an input of its own, times a factor ≥ 0, and goes at most as far as its
        room (B, *F). None where the limits say all that there is to say.
        """

    @abstractmethod
    def spread(self, rows: Tensor, factor: Tensor, room: Tensor) -> Tensor | None:
        """Bound the same for rows (B, K, N) over flat operands, (B, K)."""

    @abstractmethod
    def lowest(self, rows: Tensor) -> Tensor:
        """Return where ⟨row, x⟩ is least for one row (B, *F) of each example, or about where: to look there."""

    @abstractmethod
    def inside(self, points: Tensor) -> Tensor:
        """Return points (P, *F) of the limits of a region of one example, pulled into the set."""

    def least(self, coefficients: Tensor) -> Tensor:
        """Bound ⟨coefficients, x⟩ from below over the region, for K rows (B, K, *F) of each example: (B, K).

        >>> ball = Region.around(torch.tensor([[0.5, 0.5]]), (0.0, 1.0), "l2", 0.25)
        >>> ball.least(torch.tensor([[[0.6, 0.8]]], dtype=torch.float64))
        tensor([[0.4500]], dtype=torch.float64)
        """
        return least_between(coefficients.flatten(2), self.low, self.high)

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self: R, rows: Tensor | slice) -> R:
        """Return the region of some examples."""
        return self._with(lambda part: part[rows])

    def single(self: R) -> R:
        """Return the same in float32, to search in: nearest numbers, not enclosing ones."""
        return self._with(lambda part: part.float())

    def seen(self: R, owner: Tensor, window: Callable[[Tensor], Tensor]) -> R:
        """Return the region of some coordinates of examples `owner` (G,): those of a window over a (B, *F) tensor."""
        return self._with(lambda part: part[owner] if part.ndim == 1 else window(part))

    @property
    def middle(self) -> Tensor:
        """The midpoint of the limits, (B, *F)."""
        return (self.low + self.high) / 2

    @property
    def reach(self) -> Tensor:
        """The largest magnitude in each coordinate, (B, *F)."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def corner(self, rows: Tensor) -> Tensor:
        """Return the corners of the limits where ⟨row, x⟩ is least, one row (B, *F) for each example."""
        return torch.where(rows > 0, self.low, self.high)

    def _with(self: R, change: Callable[[Tensor], Tensor]) -> R:
        return replace(self, **{part.name: change(getattr(self, part.name)) for part in fields(self)})


def around_ball(centre: Tensor, wide: Tensor, floor: Tensor, ceiling: Tensor) -> tuple[Tensor, Tensor]:
    """Return the limits (B, *F) of centre ± wide in a box, rounded outward."""
    infinity = torch.full_like(centre, math.inf)
    low = torch.maximum(torch.nextafter(centre - wide, -infinity), floor)
    return low, torch.minimum(torch.nextafter(centre + wide, infinity), ceiling)


def least_between(rows: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Bound ⟨row, x⟩ from below over low ≤ x ≤ high (B, *F), for rows (B, K, N) over flat inputs: (B, K)."""
    low, high = low.flatten(1), high.flatten(1)
    error = growth(2 * rows.shape[-1])
    reach = torch.maximum(low.abs(), high.abs()).unsqueeze(2)
    # One product gives the reach of the limits and the rounding error of all that is summed.
    spread = (high - low).unsqueeze(2) / 2 + error * reach
    middle = ((low + high) / 2).unsqueeze(2)
    return (torch.bmm(rows, middle) - (1 + error) * torch.bmm(rows.abs(), spread)).squeeze(2)
