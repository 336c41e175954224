"""Norm balls: the classic perturbation sets, the norm being data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.errors import InputError
from trustbound.record.box import Box, Limit
from trustbound.threat.neighbourhood import AdditiveNeighbourhood
from trustbound.threat.sets.l0 import L0Neighbourhood
from trustbound.threat.sets.l1 import L1Neighbourhood
from trustbound.threat.sets.l2 import L2Neighbourhood
from trustbound.threat.sets.linf import LinfNeighbourhood, limits

NORMS = ("linf", "l2", "l1", "l0")

# A millionth of the box's width in each coordinate: sixteen times the float32 rounding of k/255 + 8/255.
_PER_COORDINATE = 1e-6


@dataclass(frozen=True)
class NormBall:
    """Inputs at distance ≤ epsilon in a norm, inside the box.

    Parameters
        norm        "linf", "l2", "l1" or "l0" (coordinates).
        epsilon     size in input units (coordinates for l0); `inf` for no limit but the box.

    Raises      InputError for an unknown norm or an epsilon that is negative or NaN.

    >>> str(NormBall("linf", 8 / 255))
    'linf:8/255'
    """

    norm: str
    epsilon: float

    def __post_init__(self) -> None:
        """Refuse what no ball is."""
        if self.norm not in NORMS:
            raise InputError(f"`norm` must be one of {', '.join(NORMS)}; got {self.norm!r}")
        object.__setattr__(self, "epsilon", float(self.epsilon) + 0.0)  # a number of numpy prints otherwise, -0.0 too
        if not self.epsilon >= 0.0:
            raise InputError(
                f"epsilon must be a number ≥ 0 (or inf for no limit but the box); got {self.epsilon} for {self.norm}"
            )
        if self.norm == "l0" and math.isfinite(self.epsilon) and self.epsilon != int(self.epsilon):
            raise InputError(f"epsilon of l0 counts input values and must be a whole number; got {self.epsilon}")

    def __str__(self) -> str:
        return f"{self.norm}:{decimal(self.epsilon)}"

    def tolerance(self, box: Box, features: int) -> float:
        """τ: what float rounding may add to a size, about 1e-6 of the box's width per coordinate.

        Certifiers prove ε + τ; a point is inside when its float64 size is ≤ ε + τ.

        >>> NormBall("l2", 0.5).tolerance(Box(0.0, 1.0), 784)
        2.8e-05
        """
        scale = {"linf": 1.0, "l2": math.sqrt(features), "l1": float(features), "l0": 0.0}[self.norm]
        return _PER_COORDINATE * box.width * scale

    @property
    def name(self) -> str:
        """The norm."""
        return self.norm

    @property
    def per_column(self) -> bool:
        """No: one radius for all."""
        return False

    @property
    def words(self) -> str:
        """What may change and by how much, for people."""
        if math.isinf(self.epsilon):
            return "any change at all within the valid range"
        size = decimal(self.epsilon)
        size = f"{size} ({self.epsilon:.4g})" if "/" in size else f"{self.epsilon:.4g}"
        return {
            "linf": f"any change of each input value by up to {size}",
            "l2": f"any change of Euclidean length up to {size}",
            "l1": f"any change whose absolute values sum up to at most {size}",
            "l0": f"any change of at most {self.epsilon:g} input value{'' if self.epsilon == 1 else 's'}",
        }[self.norm]

    @property
    def alone(self) -> float:
        """How far one input value may go whatever the others do."""
        return self.epsilon if self.norm == "linf" else math.inf

    @property
    def grain(self) -> float:
        """The smallest size that is a change at all."""
        return 1.0 if self.norm == "l0" else 0.0

    def diameter(self, box: Box, features: int) -> float:
        """The distance between opposite corners of the box."""
        return box.diameter(self.norm, features)

    def extent(self, radius: Tensor) -> Tensor:
        """The radius itself."""
        return radius

    def resized(self, epsilon: float) -> NormBall:
        """The ball of another radius; whole coordinates of l0."""
        return NormBall(self.norm, math.floor(epsilon) if self.norm == "l0" and math.isfinite(epsilon) else epsilon)

    def check(self, box: Box, shape: tuple[int, ...]) -> None:
        """Refuse an epsilon that is larger than the box: almost always a mistake of units."""
        diameter = self.diameter(box, math.prod(shape))
        if math.isfinite(self.epsilon) and self.epsilon > diameter:
            raise InputError(
                f"epsilon must be at most the box's diameter in {self.norm}, {diameter:g}; got "
                f"{self.epsilon:g}. Write {self.norm}:inf for no limit but the box, or give epsilon in the "
                "units of the inputs (8/255, not 8)."
            )

    def around(
        self, inputs: Tensor, box: Box | tuple[Limit, Limit], radius: float | Tensor | None = None
    ) -> AdditiveNeighbourhood:
        """The allowed changes of a batch (B, *F); `radius`, a number or (B,), replaces epsilon."""
        box = Box.of(box)
        reach = torch.as_tensor(
            self.epsilon if radius is None else radius, dtype=torch.float64, device=inputs.device
        ).expand(inputs.shape[0])
        low, high = box_limits(box, inputs)
        shared = {
            "inputs": inputs,
            "low": low,
            "high": high,
            "radius": reach,
            "tolerance": self.tolerance(box, inputs[0].numel()),
        }
        if self.norm == "linf":
            floor, ceiling = limits(inputs, low, high, reach)
            return LinfNeighbourhood(**shared, floor=floor, ceiling=ceiling)  # type: ignore[arg-type]
        kinds: dict[str, type[AdditiveNeighbourhood]] = {
            "l2": L2Neighbourhood,
            "l1": L1Neighbourhood,
            "l0": L0Neighbourhood,
        }
        return kinds[self.norm](**shared)  # type: ignore[arg-type]


def box_limits(box: Box, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The box's limits in the inputs' dtype: who writes 0.1 and holds float32 data means float32(0.1)."""
    low, high = (torch.as_tensor(limit, dtype=torch.float64, device=inputs.device) for limit in (box.low, box.high))
    return low.to(inputs.dtype), high.to(inputs.dtype)


def decimal(value: float) -> str:
    """A number as people write it: k/255 where it is one and longer as a decimal, else the shortest decimal."""
    if not math.isfinite(value):
        return "inf"
    if len(repr(value)) <= 7:
        return str(int(value)) if value == int(value) else repr(value)
    count = round(value * 255) if value < 1e9 else 0
    if 0 < count and count / 255 == value and count % 255:
        return f"{count}/255"
    return str(int(value)) if value == int(value) else repr(value)
