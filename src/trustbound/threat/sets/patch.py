"""A square of pixels, anywhere in the picture, replaced by anything inside the box."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from trustbound.errors import InputError
from trustbound.record.box import Box, Limit
from trustbound.threat.neighbourhood import AdditiveNeighbourhood
from trustbound.threat.random import Random
from trustbound.threat.sets.ball import NormBall, box_limits
from trustbound.threat.sets.transformation import check_picture

#: Of a size, which is a whole number, what measuring it again may add.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Patch:
    """One square of `side` × `side` pixels, wherever it lies inside the picture; all its values may change.

    Raises      InputError for a side that is no whole number ≥ 0.

    >>> str(Patch(5)), Patch(5).epsilon
    ('patch:5', 5.0)
    """

    side: float

    name: ClassVar[str] = "patch"
    norm: ClassVar[str] = ""
    per_column: ClassVar[bool] = False
    alone: ClassVar[float] = math.inf
    grain: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no square."""
        side = float(self.side)
        if not 0.0 <= side < math.inf or side != int(side):
            raise InputError(f"the size of a patch must be a whole number of pixels ≥ 0, e.g. patch:5; got {self.side}")
        object.__setattr__(self, "side", int(side))

    def __str__(self) -> str:
        return f"patch:{self.side}"

    @property
    def epsilon(self) -> float:
        """The side."""
        return float(self.side)

    @property
    def words(self) -> str:
        """What may change, for people."""
        return f"any one square of {self.side} × {self.side} pixels, wherever it lies, replaced by anything"

    def check(self, box: Box, shape: tuple[int, ...]) -> None:
        """Pictures, and a square that fits into them."""
        check_picture("patch", shape, box)
        if self.side > (most := min(shape[1:])):
            raise InputError(f"patch must be at most {most} pixels, the shorter side of the pictures; got {self.side}")

    def tolerance(self, box: Box, features: int) -> float:
        """Sizes are whole numbers: less than one of them."""
        return _TOLERANCE

    def diameter(self, box: Box, features: int) -> float:
        """Its own side."""
        return self.epsilon

    def extent(self, radius: Tensor) -> Tensor:
        """The side itself."""
        return radius

    def resized(self, epsilon: float) -> Patch:
        """A square of another side, rounded down."""
        return Patch(math.floor(epsilon + _TOLERANCE))

    def around(
        self, inputs: Tensor, box: Box | tuple[Limit, Limit], radius: float | Tensor | None = None
    ) -> PatchNeighbourhood:
        """The allowed changes of a batch (B, C, H, W); `radius`, a number or (B,), replaces a larger side."""
        self.check(Box.of(box), tuple(inputs.shape[1:]))
        reach = torch.as_tensor(self.epsilon if radius is None else radius, dtype=torch.float64, device=inputs.device)
        low, high = box_limits(Box.of(box), inputs)
        return PatchNeighbourhood(
            inputs=inputs,
            low=low,
            high=high,
            radius=reach.expand(len(inputs)).clamp(max=self.epsilon),
            tolerance=_TOLERANCE,
            side=int(self.side),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchNeighbourhood:
    """Squares on a batch: θ (B, 2 + C·side²) is where the square begins, (row, column), and what it shows.

    Steps move what a square shows; where it lies is drawn, or chosen among `leading` places, at the start of each run,
    and stays. A square whose radius is smaller shows the picture itself beyond so many of its first rows and columns.

    Parameters
        inputs      (B, C, H, W) clean inputs.
        low, high   limits of the box, () or (*F), in the inputs' dtype.
        radius      (B,) float64, at most the side.
        tolerance   τ of the set.
        side        in pixels.
    """

    norm: ClassVar[str] = ""
    additive: ClassVar[bool] = False
    discrete: ClassVar[bool] = False

    inputs: Tensor
    low: Tensor
    high: Tensor
    radius: Tensor
    tolerance: float
    side: int

    @property
    def floor(self) -> Tensor:
        """The least of each number of θ, (B, P)."""
        return self._limit(self.low, (0, 0))

    @property
    def ceiling(self) -> Tensor:
        """The largest, (B, P)."""
        height, width = self.inputs.shape[2:]
        return self._limit(self.high, (height - self.side, width - self.side))

    def start(self, random: Random, restart: int) -> Tensor:
        """A square anywhere, each place as likely, that shows uniform noise."""
        rooms = [length - self.side + 1 for length in self.inputs.shape[2:]]
        corner = [random.integers(room, (1,), restart=restart, draw=1 + axis) for axis, room in enumerate(rooms)]
        share = random.uniform((self.floor.shape[1],), restart=restart, draw=0, dtype=self.inputs.dtype)
        theta = self.floor + share * (self.ceiling - self.floor)
        theta[:, :2] = torch.cat(corner, dim=1).to(theta.dtype)
        return self.project(theta)

    def origin(self) -> Tensor:
        """A square in the first corner that shows what is there."""
        theta = self.floor.clone()
        theta[:, 2:] = self._under(theta).flatten(1)
        return theta

    def apply(self, theta: Tensor, rows: Tensor | slice | None = None) -> Tensor:
        """The pictures with their squares laid over."""
        inputs = self.inputs if rows is None else self.inputs[rows]
        place = self._place(theta, inputs)
        shown = theta[:, 2:].to(inputs.dtype)
        return inputs.flatten(1).scatter(1, place.flatten(1), shown).reshape(inputs.shape)

    def project(self, theta: Tensor, radius: Tensor | None = None) -> Tensor:
        """Into the box and onto whole pixels, and what lies beyond the radius as it is in the picture."""
        theta.clamp_(self.floor, self.ceiling)
        theta[:, :2] = theta[:, :2].round()
        reach = self.radius if radius is None else torch.minimum(radius, self.radius)
        if bool((reach + self.tolerance < self.side).any()):
            step = torch.arange(self.side, device=theta.device)
            inside = step < (reach + self.tolerance).floor().unsqueeze(1)
            kept = (inside.unsqueeze(2) & inside.unsqueeze(1)).unsqueeze(1).expand_as(self._under(theta)).flatten(1)
            theta[:, 2:] = torch.where(kept, theta[:, 2:], self._under(theta).flatten(1))
        return theta

    def steepest(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """All that is shown, each value by the width of the box in as many units as the side has pixels."""
        gradient.sign_().mul_((self.ceiling - self.floor).to(gradient.dtype) / max(1, self.side))
        gradient[:, :2] = 0.0
        return gradient

    def size(self, theta: Tensor) -> Tensor:
        """The side of the smallest square that holds all that changes, in pixels, (B,) float64."""
        if not self.side:
            return torch.zeros(len(theta), dtype=torch.float64, device=theta.device)
        shown = theta[:, 2:].reshape(-1, self.inputs.shape[1], self.side, self.side)
        changed = (shown != self._under(theta)).any(dim=1)
        sides = [_span(changed.any(dim=axis)) for axis in (1, 2)]
        return torch.maximum(*sides).to(torch.float64)

    def contains(self, theta: Tensor, size: Tensor | None = None) -> Tensor:
        """Whether size ≤ radius + τ, and the square lies inside, on whole pixels and in the box, (B,) bool."""
        size = self.size(theta) if size is None else size
        inside = (theta >= self.floor.to(theta.dtype)) & (theta <= self.ceiling.to(theta.dtype))
        whole = (theta[:, :2] == theta[:, :2].round()).all(dim=1)
        return inside.all(dim=1) & whole & (size <= self.radius + self.tolerance)

    def scale(self) -> Tensor:
        """The radius."""
        return self.radius

    def leading(self, gains: Tensor, count: int) -> Tensor:
        """The corners (B, k, 2) of the squares that hold most of gains (B, H, W), the most first; k ≤ count of them.

        >>> ours = Patch(2).around(torch.zeros(1, 1, 3, 4), (0.0, 1.0))
        >>> ours.leading(torch.tensor([[[0.0, 0, 0, 0], [0, 0, 0, 2], [0, 0, 1, 9]]]), 2).tolist()
        [[[1.0, 2.0], [0.0, 2.0]]]
        """
        held = avg_pool2d(gains.unsqueeze(1), max(1, self.side), stride=1)[:, 0]
        width = held.shape[2]
        first = held.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :count]
        return torch.stack([first // width, first % width], dim=2).to(self.inputs.dtype)

    def showing(self, pictures: Tensor, corners: Tensor) -> Tensor:
        """θ (B, P) of squares at corners (B, 2) that show what other pictures (B, C, H, W) show there."""
        theta = self.floor.clone()
        theta[:, :2] = corners
        theta[:, 2:] = self._shown(pictures, theta).flatten(1)
        return theta

    def whole(self) -> AdditiveNeighbourhood:
        """The same pictures, all of whose pixels may change."""
        low, high = (limit.double().cpu().numpy() for limit in (self.low, self.high))
        return NormBall("linf", math.inf).around(self.inputs, Box(low, high))

    def column(self, values: Tensor) -> Tensor:
        """(B,) → (B, 1), in the dtype of θ."""
        return values.to(self.inputs.dtype).reshape(-1, 1)

    def select(self, rows: Tensor) -> PatchNeighbourhood:
        """The same set for some of the examples."""
        return dataclasses.replace(self, inputs=self.inputs[rows], radius=self.radius[rows])

    def at(self, dtype: torch.dtype) -> PatchNeighbourhood:
        """The same changes of inputs in another precision."""
        low, high = self.low.to(dtype), self.high.to(dtype)
        return dataclasses.replace(self, inputs=self.inputs.to(dtype), low=low, high=high)

    def _limit(self, limit: Tensor, corner: tuple[int, int]) -> Tensor:
        """One number for each of θ, (B, P): a corner, and the limit of each channel."""
        channels = limit.expand(self.inputs.shape[1:])[:, 0, 0].repeat_interleave(self.side**2)
        row = torch.cat([torch.tensor(corner, dtype=limit.dtype, device=limit.device), channels])
        return row.expand(len(self.inputs), -1)

    def _place(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """Where each value of a square lies in its flat picture, (R, C, side, side)."""
        channels, height, width = inputs.shape[1:]
        last = torch.tensor([height - self.side, width - self.side], device=theta.device)
        first = theta[:, :2].detach().nan_to_num(0.0).round().to(torch.int64).clamp(min=0).minimum(last)
        step = torch.arange(self.side, device=theta.device)
        down, across = (first[:, axis : axis + 1] + step for axis in (0, 1))
        flat = down.unsqueeze(2) * width + across.unsqueeze(1)
        layer = torch.arange(channels, device=theta.device) * (height * width)
        return flat.unsqueeze(1) + layer.reshape(1, -1, 1, 1)

    def _under(self, theta: Tensor) -> Tensor:
        """What the pictures show where the squares lie, (B, C, side, side)."""
        return self._shown(self.inputs, theta)

    def _shown(self, pictures: Tensor, theta: Tensor) -> Tensor:
        """The same of other pictures."""
        place = self._place(theta, pictures)
        return pictures.flatten(1).gather(1, place.flatten(1)).reshape(place.shape)


def _span(lines: Tensor) -> Tensor:
    """From the first to the last of the lines (B, side) that are set: how many that is, 0 for none."""
    count = lines.shape[1]
    step = torch.arange(count, device=lines.device)
    last = torch.where(lines, step, -1).amax(dim=1)
    first = torch.where(lines, step, count).amin(dim=1)
    return (last - first + 1).clamp(min=0)
