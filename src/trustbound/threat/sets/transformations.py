"""Sets whose θ are a few numbers that a transformation turns into inputs: angles, shifts, a brightness."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.errors import InputError
from trustbound.record.box import Box, Limit
from trustbound.threat.random import Random
from trustbound.threat.sets.ball import box_limits, decimal
from trustbound.threat.sets.registry import SETS
from trustbound.threat.sets.transformation import Geometric, Pointwise, Transformation, resampled

# What rounding may add to a size, as a share of it.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Transformations:
    """One transformation after another, each parameter at most its own size, either way.

    Of a single kind, epsilon is its size in its own unit. Of several, sizes are shares: the largest of |parameter| ÷
    limit, and epsilon is 1.

    Parameters
        parts   (name, limit) in the order in which they are applied.

    Raises      InputError for a limit that is negative or not finite, and a kind that is named twice.

    >>> str(Transformations((("rotation", 30.0), ("translation", 3.0))))
    'rotation:30,translation:3'
    """

    parts: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        """Refuse what is no set."""
        if not self.parts:
            raise InputError("a set of transformations needs one at least, e.g. rotation:30; got none")
        # a number of numpy prints otherwise, -0.0 too
        object.__setattr__(self, "parts", tuple((str(name), float(limit) + 0.0) for name, limit in self.parts))
        names = [name for name, _ in self.parts]
        for name, limit in self.parts:
            if not SETS.find(name).combines:
                raise InputError(f"a norm ball stands alone; got {name} joined with others: {', '.join(names)}")
            if not 0.0 <= limit < math.inf:
                raise InputError(f"the size of {name} must be a finite number ≥ 0; got {limit}")
            if names.count(name) > 1:
                raise InputError(f"each kind of change may be given once; got {name} again: {', '.join(names)}")

    def __str__(self) -> str:
        return ",".join(f"{name}:{decimal(limit)}" for name, limit in self.parts)

    @property
    def name(self) -> str:
        """All kinds, joined by commas."""
        return ",".join(name for name, _ in self.parts)

    @property
    def norm(self) -> str:
        """None."""
        return ""

    @property
    def per_column(self) -> bool:
        """No."""
        return False

    @property
    def epsilon(self) -> float:
        """The size of a single kind; 1 of several."""
        return self.parts[0][1] if len(self.parts) == 1 else 1.0

    @property
    def words(self) -> str:
        """What may change and by how much, for people."""
        said = []
        for name, limit in self.parts:
            row = SETS.find(name)
            said.append(f"{name} by up to {decimal(limit)} {row.unit} either way")
        return f"any {', then '.join(said)}"

    @property
    def alone(self) -> float:
        """No limit of its own for an input value."""
        return math.inf

    @property
    def grain(self) -> float:
        """None."""
        return 0.0

    def check(self, box: Box, shape: tuple[int, ...]) -> None:
        """Refuse inputs that a kind cannot change, and sizes that are a mistake of units."""
        for (_, limit), kind in zip(self.parts, self.kinds, strict=True):
            kind.check(limit, box, shape)

    def tolerance(self, box: Box, features: int) -> float:
        """A millionth of epsilon."""
        return _TOLERANCE * self.epsilon

    def diameter(self, box: Box, features: int) -> float:
        """Its own size: there is no telling from where on more makes no difference."""
        return self.epsilon

    def extent(self, radius: Tensor) -> Tensor:
        """The radius itself: no proof asks."""
        return radius

    def resized(self, epsilon: float) -> Transformations:
        """All limits by the same share; the limit of a single kind becomes epsilon."""
        if len(self.parts) == 1:
            return Transformations(((self.parts[0][0], float(epsilon)),))
        return Transformations(tuple((name, limit * float(epsilon)) for name, limit in self.parts))

    def around(
        self, inputs: Tensor, box: Box | tuple[Limit, Limit], radius: float | Tensor | None = None
    ) -> TransformationNeighbourhood:
        """The allowed changes of a batch (B, *F); `radius`, a number or (B,), replaces epsilon."""
        reach = torch.as_tensor(
            self.epsilon if radius is None else radius, dtype=torch.float64, device=inputs.device
        ).expand(inputs.shape[0])
        low, high = box_limits(Box.of(box), inputs)
        kinds = self.kinds
        limits = [limit for (_, limit), kind in zip(self.parts, kinds, strict=True) for _ in range(kind.columns)]
        pace = torch.tensor(limits, dtype=torch.float64, device=inputs.device) / (self.epsilon or 1.0)
        return TransformationNeighbourhood(
            inputs=inputs,
            low=low,
            high=high,
            radius=reach,
            tolerance=self.tolerance(Box.of(box), 1),
            pace=pace,
            kinds=kinds,
        )

    @property
    def kinds(self) -> tuple[type[Transformation], ...]:
        """In the order in which they are applied."""
        return tuple(SETS.load(name) for name, _ in self.parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class TransformationNeighbourhood:
    """What transformations make of a batch: θ (B, P) are their parameters, each in its own unit, float32 at least.

    Geometric kinds that stand side by side resample a picture once.

    Parameters
        inputs      (B, *F) clean inputs.
        low, high   limits of the box, () or (*F), in the inputs' dtype.
        radius      (B,) float64, in the unit of the set's epsilon.
        tolerance   τ of the set.
        pace        (P,) float64, how far each parameter goes for one unit of size.
        kinds       in the order in which they are applied.
    """

    norm: ClassVar[str] = ""
    additive: ClassVar[bool] = False
    discrete: ClassVar[bool] = False

    inputs: Tensor
    low: Tensor
    high: Tensor
    radius: Tensor
    tolerance: float
    pace: Tensor
    kinds: tuple[type[Transformation], ...]

    @property
    def floor(self) -> Tensor:
        """The lowest parameters allowed, (B, P)."""
        return -self.ceiling

    @property
    def ceiling(self) -> Tensor:
        """The highest parameters allowed, (B, P)."""
        return (self.radius[:, None] * self.pace).to(self._dtype)

    def start(self, random: Random, restart: int) -> Tensor:
        """Uniform in all parameters."""
        share = random.uniform(tuple(self.pace.shape), restart=restart, draw=0, dtype=torch.float64)
        return ((2.0 * share - 1.0) * self.radius[:, None] * self.pace).to(self._dtype)

    def origin(self) -> Tensor:
        """No change: zeros."""
        return torch.zeros(len(self.inputs), len(self.pace), dtype=self._dtype, device=self.inputs.device)

    def apply(self, theta: Tensor, rows: Tensor | slice | None = None) -> Tensor:
        """One transformation after another."""
        inputs = self.inputs if rows is None else self.inputs[rows]
        moved, column = inputs, 0
        back: Tensor | None = None
        for kind in self.kinds:
            part = theta[:, column : column + kind.columns]
            column += kind.columns
            if issubclass(kind, Geometric):
                back = kind.back(part) if back is None else back @ kind.back(part)
                continue
            if back is not None:
                moved, back = self._resampled(moved, back), None
            if issubclass(kind, Pointwise):
                moved = kind.apply(moved, part.to(moved.dtype), self.low, self.high)
        return moved if back is None else self._resampled(moved, back)

    def project(self, theta: Tensor, radius: Tensor | None = None) -> Tensor:
        """Each parameter clipped to its limits."""
        most = self.ceiling if radius is None else (radius[:, None] * self.pace).to(self._dtype)
        return theta.clamp_(-most, most)

    def steepest(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """All parameters at once, each by one unit of size."""
        return gradient.sign_().mul_(self.pace.to(gradient.dtype))

    def size(self, theta: Tensor) -> Tensor:
        """The largest parameter in units of its pace, (B,) float64."""
        moved = theta.to(torch.float64).abs()
        return torch.where(moved == 0.0, 0.0, moved / self.pace).amax(dim=1)

    def contains(self, theta: Tensor, size: Tensor | None = None) -> Tensor:
        """Whether size ≤ radius + τ, (B,) bool; the box holds by construction."""
        return (self.size(theta) if size is None else size) <= self.radius + self.tolerance

    def scale(self) -> Tensor:
        """The radius."""
        return self.radius

    def column(self, values: Tensor) -> Tensor:
        """(B,) → (B, 1), in the dtype of θ."""
        return values.to(self._dtype).reshape(-1, 1)

    def select(self, rows: Tensor) -> TransformationNeighbourhood:
        """The same set for some of the examples."""
        return dataclasses.replace(self, inputs=self.inputs[rows], radius=self.radius[rows])

    def at(self, dtype: torch.dtype) -> TransformationNeighbourhood:
        """The same changes of inputs in another precision."""
        low, high = self.low.to(dtype), self.high.to(dtype)
        return dataclasses.replace(self, inputs=self.inputs.to(dtype), low=low, high=high)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.inputs.dtype == torch.float64 else torch.float32

    def _resampled(self, pictures: Tensor, back: Tensor) -> Tensor:
        """What comes in from outside is the lowest value of the box; rounding does not leave it."""
        fill = self.low.to(back.dtype)
        return resampled(pictures, back, fill).to(pictures.dtype).clamp(self.low, self.high)
