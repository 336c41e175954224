"""l∞ with a radius of its own for each column of a table, in units that the columns give."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.errors import InputError
from trustbound.record.audit import ColumnRadius
from trustbound.record.box import Box, Limit
from trustbound.threat.sets.ball import box_limits, decimal
from trustbound.threat.sets.column_rules import size_with_unit
from trustbound.threat.sets.linf import LinfNeighbourhood, limits

#: τ is this share of epsilon: what rounding may add to a size.
_TOLERANCE = 1e-6
#: A size measured in float64 is off by less than this share.
_OUTWARD = 1.0 + 2.0**-40
#: A whole number of steps that rounding has put just below itself is that number: less than τ's share.
_WHOLE = 1.0 + 1e-7

_WORDS = {"%": "% of its range", "std": " standard deviations", "range": " times its range", "": ""}


@dataclass(frozen=True)
class _Sized:
    """A size in units of the columns, as both forms of the ball have it."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return f"linf:{_size(self.amount, self.unit)}"

    @property
    def name(self) -> str:
        """The norm."""
        return "linf"

    @property
    def norm(self) -> str:
        """The norm, of changes in units of the columns."""
        return "linf"

    @property
    def per_column(self) -> bool:
        """Whether radii differ."""
        return True

    @property
    def epsilon(self) -> float:
        """The size in units of the columns."""
        return self.amount / 100.0 if self.unit == "%" else self.amount


@dataclass(frozen=True)
class UnitBall(_Sized):
    """l∞ in a unit that only data can tell: `linf:5%`, `linf:0.1*std`, `linf:columns`.

    Everything that needs inputs is refused until `Threat.resolved` has looked at the data.

    >>> str(UnitBall(5.0, "%")), UnitBall(5.0, "%").epsilon
    ('linf:5%', 0.05)
    """

    @property
    def words(self) -> str:
        """What may change and by how much, for people."""
        return f"any change of each column by up to {_share(self.amount, self.unit)}"

    @property
    def alone(self) -> float:
        """Not known."""
        return math.inf

    @property
    def grain(self) -> float:
        """None."""
        return 0.0

    def resized(self, epsilon: float) -> UnitBall:
        """In the same unit."""
        return UnitBall(epsilon * 100.0 if self.unit == "%" else epsilon, self.unit)

    def check(self, box: Box, shape: tuple[int, ...]) -> None:
        """Refuse."""
        raise self._unknown()

    def tolerance(self, box: Box, features: int) -> float:
        """Refuse."""
        raise self._unknown()

    def diameter(self, box: Box, features: int) -> float:
        """Refuse."""
        raise self._unknown()

    def extent(self, radius: Tensor) -> Tensor:
        """Refuse."""
        raise self._unknown()

    def around(
        self, inputs: Tensor, box: Box | tuple[Limit, Limit], radius: float | Tensor | None = None
    ) -> ColumnNeighbourhood:
        """Refuse."""
        raise self._unknown()

    def _unknown(self) -> InputError:
        return InputError(
            f"{self} is in units of the data's columns, which nobody has looked at: pass "
            f"Threat.parse({str(self)!r}).resolved(data). `audit` and the command line do so themselves."
        )


@dataclass(frozen=True)
class ColumnBall(_Sized):
    """Inputs (F,) of which column i is at most epsilon · widths[i] away, inside the box.

    Sizes are the largest |change| ÷ width. A column of width 0 never changes; one that is integer keeps to whole
    numbers, so that its θ is rounded before the model sees it; proofs hold for all values between.

    Parameters
        amount, unit    as in the text form: `linf:5%`, `linf:0.1*std`; of unit "" they are plain epsilon.
        columns         their names.
        widths          how far each goes for one unit of epsilon.
        integer         which are whole numbers.
        held            names of one-hot groups, which are kept as they are.

    >>> ball = ColumnBall(50.0, "%", ("age", "sex"), (4.0, 0.0), (True, False))
    >>> ours = ball.around(torch.tensor([[3.0, 1.0]]), (0.0, 9.0))
    >>> ours.apply(ours.project(torch.tensor([[7.0, 0.0]]))), str(ball)
    (tensor([[5., 1.]]), 'linf:50%')
    """

    columns: tuple[str, ...]
    widths: tuple[float, ...]
    integer: tuple[bool, ...]
    held: tuple[str, ...] = ()

    @property
    def radii(self) -> tuple[ColumnRadius, ...]:
        """How far each column may go, in its own unit, for the record."""
        far = self.extent(torch.tensor([self.epsilon], dtype=torch.float64))[0].tolist()
        reach = [radius / _OUTWARD if radius < math.inf else None for radius in far]
        kinds = ["immutable" if not width else "integer" if whole else "" for width, whole in self._pairs()]
        return tuple(
            ColumnRadius(name=name, radius=radius, kind=kind)
            for name, radius, kind in zip(self.columns, reach, kinds, strict=True)
        )

    @property
    def words(self) -> str:
        """What may change and by how much, for people."""
        said = f"any change of each column by up to {_share(self.amount, self.unit)}"
        own = [f"{one.name} ±{one.radius:.4g}" for one in self.radii if one.radius and one.kind != "immutable"]
        shown = ", ".join(own[:4]) + (f" … of {len(own)}" if len(own) > 4 else "")
        fixed = [name for name, width in zip(self.columns, self.widths, strict=True) if not width]
        kept = f"; kept as they are: {', '.join(fixed[:6])}{' …' if len(fixed) > 6 else ''}" if fixed else ""
        groups = f" (one-hot: {', '.join(self.held)})" if self.held else ""
        return f"{said} ({shown}){kept}{groups}"

    @property
    def alone(self) -> float:
        """It differs by column."""
        return math.inf

    @property
    def grain(self) -> float:
        """None: other columns are real numbers, or the smallest step differs."""
        return 0.0

    def tolerance(self, box: Box, features: int) -> float:
        """A millionth of epsilon, or of the largest size that makes a difference."""
        return _TOLERANCE * min(self.epsilon, self.diameter(box, features))

    def diameter(self, box: Box, features: int) -> float:
        """From where on every column may go as far as the box allows."""
        low, high = (torch.as_tensor(limit, dtype=torch.float64) for limit in (box.low, box.high))
        side = (high - low).flatten()
        wide = torch.tensor(self.widths, dtype=torch.float64)
        ratio = side.expand(len(wide))[wide > 0] / wide[wide > 0]
        return float(ratio.max()) if len(ratio) else 0.0

    def resized(self, epsilon: float) -> ColumnBall:
        """All radii by the same share."""
        return dataclasses.replace(self, amount=epsilon * 100.0 if self.unit == "%" else float(epsilon))

    def check(self, box: Box, shape: tuple[int, ...]) -> None:
        """Refuse inputs of other columns, and a size that is a mistake of units."""
        if shape != (len(self.columns),):
            raise InputError(
                f"{self} was resolved for a table of {len(self.columns)} columns; got inputs of shape {shape}. Resolve "
                "it for the data that are audited."
            )
        widest = self.diameter(box, len(self.columns))
        if widest < self.epsilon < math.inf:
            raise InputError(
                f"{self} reaches across the whole box in every column: the largest size that makes a difference is "
                f"{_size(widest * 100.0 if self.unit == '%' else widest, self.unit)}. Give a smaller one."
            )

    def extent(self, radius: Tensor) -> Tensor:
        """How far each column of each example may go, (B,) → (B, F) float64; a whole number where it is integer."""
        wide = torch.tensor(self.widths, dtype=torch.float64, device=radius.device)
        reach = torch.where(wide > 0, radius.to(torch.float64)[:, None] * wide * _OUTWARD, 0.0).nan_to_num(nan=0.0)
        whole = torch.tensor(self.integer, device=radius.device)
        return torch.where(whole, (reach * _WHOLE).floor(), reach)

    def around(
        self, inputs: Tensor, box: Box | tuple[Limit, Limit], radius: float | Tensor | None = None
    ) -> ColumnNeighbourhood:
        """The allowed changes of a batch (B, F); `radius`, a number or (B,), replaces epsilon."""
        box = Box.of(box)
        reach = torch.as_tensor(
            self.epsilon if radius is None else radius, dtype=torch.float64, device=inputs.device
        ).expand(inputs.shape[0])
        low, high = box_limits(box, inputs)
        floor, ceiling = limits(inputs, low, high, self.extent(reach))
        whole = torch.tensor(self.integer, device=inputs.device)
        return ColumnNeighbourhood(
            inputs=inputs,
            low=low,
            high=high,
            radius=reach,
            tolerance=self.tolerance(box, inputs[0].numel()),
            floor=torch.where(whole, torch.minimum(floor.ceil(), inputs), floor),
            ceiling=torch.where(whole, torch.maximum(ceiling.floor(), inputs), ceiling),
            widths=torch.tensor(self.widths, dtype=torch.float64, device=inputs.device),
            integer=whole,
        )

    def _pairs(self) -> list[tuple[float, bool]]:
        return list(zip(self.widths, self.integer, strict=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnNeighbourhood(LinfNeighbourhood):
    """Radii of their own. Where some columns are whole numbers, θ lies between them and `apply` rounds it.

    Parameters
        widths      (F,) float64, how far each column goes for one unit of size.
        integer     (F,) bool.
    """

    widths: Tensor
    integer: Tensor

    @property
    def additive(self) -> bool:  # type: ignore[override]
        """Whether θ is the adversarial input itself: not where it is rounded."""
        return not bool(self.integer.any())

    def apply(self, theta: Tensor, rows: Tensor | slice | None = None) -> Tensor:
        """θ with its integer columns rounded; the gradient passes as if they were not."""
        if self.additive:
            return theta
        return torch.where(self.integer, theta + (theta.round() - theta).detach(), theta)

    def steepest(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """All columns at once, each by its own width."""
        return gradient.sign_().mul_(self.widths.to(gradient.dtype))

    def size(self, theta: Tensor) -> Tensor:
        """Of what θ stands for, (B,) float64."""
        return super().size(self.apply(theta))

    def norm_of(self, change: Tensor) -> Tensor:
        """The largest change in units of the widths; of a column that never changes, infinity."""
        away = change.abs()
        return torch.where(away == 0.0, 0.0, away / self.widths).amax(dim=1)

    def contains(self, theta: Tensor, size: Tensor | None = None) -> Tensor:
        """Whether size ≤ radius + τ and the box holds."""
        return super().contains(self.apply(theta), self.size(theta) if size is None else size)

    def project(self, theta: Tensor, radius: Tensor | None = None) -> Tensor:
        """Clip to the limits."""
        if radius is None:
            return theta.clamp_(self.floor, self.ceiling)
        floor, ceiling = limits(self.inputs, self.low, self.high, self._extent(radius))
        return theta.clamp_(torch.maximum(floor, self.floor), torch.minimum(ceiling, self.ceiling))

    def scale(self) -> Tensor:
        """The radius as far as the box lets it matter."""
        side = (self.high - self.low).to(torch.float64).expand(self.inputs.shape[1:]).reshape(-1)
        free = self.widths > 0
        widest = float((side[free] / self.widths[free]).max()) if bool(free.any()) else 0.0
        return self.radius.clamp(max=widest)

    def _extent(self, radius: Tensor) -> Tensor:
        return torch.where(self.widths > 0, radius[:, None] * self.widths, 0.0)


def in_units(name: str, size: str, whole: str) -> UnitBall | None:
    """A set whose size is in units of columns; None where it is a plain number.

    Raises      InputError for another norm than l∞, and beside other sets.
    """
    told = (1.0, "columns") if size == "columns" else size_with_unit(size)
    if told is None or not told[1]:
        return None
    if name != "linf" or whole != f"{name}:{size}":
        raise InputError(
            f"sizes in units of columns ({size}) stand alone, under linf; got {whole!r}. Write linf:{size}."
        )
    return UnitBall(*told)


def _size(amount: float, unit: str) -> str:
    if unit == "columns" and amount == 1.0:
        return "columns"
    return f"{decimal(amount)}%" if unit == "%" else f"{decimal(amount)}{f'*{unit}' if unit else ''}"


def _share(amount: float, unit: str) -> str:
    if unit == "columns":
        return "its own radius" if amount == 1.0 else f"{decimal(amount)} times its own radius"
    return f"{decimal(amount)}{_WORDS[unit]}"
