"""The set of valid inputs: lower and upper limit, one for all features or one for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trustbound.errors import InputError

Limit: TypeAlias = "float | NDArray[np.float64]"


@dataclass(frozen=True, eq=False)
class Box:
    """Valid inputs lie between `low` and `high`, both in input units.

    Shapes      low, high: a number, or an array that broadcasts to one example's features (*F).
    Raises      InputError when a limit is not finite or low is not below high somewhere.

    >>> Box(0.0, 1.0).width
    1.0
    >>> Box.of((-1, 1))
    Box(low=-1.0, high=1.0)
    """

    low: Limit
    high: Limit

    def __post_init__(self) -> None:
        """Make numbers of what came and refuse empty boxes."""
        try:
            low, high = np.asarray(self.low, dtype=np.float64), np.asarray(self.high, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"a box is a pair of limits (low, high), each a number or an array; got {(self.low, self.high)!r}"
            ) from error
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise InputError(f"a box needs finite limits; got low={self.low!r}, high={self.high!r}")
        try:
            below = np.all(low < high)
        except ValueError as error:
            raise InputError(
                f"a box needs limits that broadcast to one shape; got {low.shape} and {high.shape}"
            ) from error
        if not below:
            raise InputError(
                f"a box needs low < high in every feature; got low={self.low!r}, high={self.high!r}. "
                "Drop features that never vary, or widen their limits."
            )
        object.__setattr__(self, "low", float(low) if low.ndim == 0 else low)
        object.__setattr__(self, "high", float(high) if high.ndim == 0 else high)

    @classmethod
    def of(cls, box: Box | tuple[Limit, Limit]) -> Box:
        """Read a box from a pair of limits, or pass a box through."""
        if isinstance(box, Box):
            return box
        try:
            low, high = box
            return cls(low, high)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(
                f"a box is a pair of limits (low, high), each a number or an array; got {box!r}"
            ) from error

    @property
    def width(self) -> float:
        """The widest feature's high - low: the unit in which tolerances are stated."""
        return float(np.max(np.asarray(self.high) - np.asarray(self.low)))

    def diameter(self, norm: str, features: int) -> float:
        """The distance between opposite corners in a norm, for inputs of `features` coordinates.

        >>> Box(0.0, 1.0).diameter("l2", 784)
        28.0
        """
        side = np.ravel(np.asarray(self.high) - np.asarray(self.low))
        if side.size != features:
            side = np.repeat(side, features // side.size)
        if norm == "linf":
            return float(side.max())
        if norm == "l2":
            return math.sqrt(float((side**2).sum()))
        return float(side.sum()) if norm == "l1" else float(features)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and np.array_equal(self.low, other.low) and np.array_equal(self.high, other.high)

    def __hash__(self) -> int:
        return hash((np.asarray(self.low).tobytes(), np.asarray(self.high).tobytes()))
