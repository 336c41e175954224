"""What an attack may do to each example: start, move, stay inside, be measured."""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from trustbound.threat.random import Random

Self = TypeVar("Self", bound="AdditiveNeighbourhood")


class Neighbourhood(Protocol):
    """The allowed changes of a batch of inputs; θ parametrises them, one row an example.

    Shapes      θ, gradient (B, *P); adversarial inputs (B, *F); size (B,) float64.
    In place    `project` may write into the θ it is given, `steepest` into the gradient; both return theirs.
    """

    @property
    def inputs(self) -> Tensor:
        """Clean inputs (B, *F)."""

    @property
    def radius(self) -> Tensor:
        """How far each example may be changed, (B,) float64, may be infinite."""

    @property
    def norm(self) -> str:
        """Name of the norm that measures the set, "" where it is no norm ball."""

    @property
    def additive(self) -> bool:
        """Whether θ is the adversarial input itself."""

    @property
    def discrete(self) -> bool:
        """Whether a step moves a coordinate as far as it may go, or not at all."""

    def start(self, random: Random, restart: int) -> Tensor:
        """A random point of the set, θ (B, *P)."""

    def origin(self) -> Tensor:
        """The point that changes nothing."""

    def apply(self, theta: Tensor, rows: Tensor | slice | None = None) -> Tensor:
        """The adversarial inputs that θ stands for; row i changes example rows[i], by default example i."""

    def project(self, theta: Tensor, radius: Tensor | None = None) -> Tensor:
        """The nearest point of the set (ball ∩ box), in the Euclidean sense."""

    def steepest(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """The direction of one unit that climbs fastest from θ without leaving the box."""

    def size(self, theta: Tensor) -> Tensor:
        """How much θ changes, in float64, in the set's own unit."""

    def contains(self, theta: Tensor, size: Tensor | None = None) -> Tensor:
        """Whether size ≤ radius + τ and the box holds, in float64; `size` where it was measured already."""

    def scale(self) -> Tensor:
        """The radius as far as the box lets it matter, (B,) float64: finite, for step sizes."""

    def column(self, values: Tensor) -> Tensor:
        """(B,) → (B, 1, …) against θ, in its dtype."""

    def select(self, rows: Tensor) -> Neighbourhood:
        """The same set for some of the examples."""

    def at(self, dtype: torch.dtype) -> Neighbourhood:
        """The same changes of inputs in another precision, to apply a θ again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AdditiveNeighbourhood(abc.ABC):
    """Shared part of the norm balls: θ *is* the adversarial input, `apply` the identity.

    Parameters
        inputs      (B, *F) clean inputs.
        low, high   limits of the box, () or (*F), in the inputs' dtype.
        radius      (B,) float64, may be infinite.
        tolerance   τ of the set.
    """

    norm: ClassVar[str] = ""
    additive: ClassVar[bool] = True
    discrete: ClassVar[bool] = False

    inputs: Tensor
    low: Tensor
    high: Tensor
    radius: Tensor
    tolerance: float

    def origin(self) -> Tensor:
        """The clean inputs, as a new tensor."""
        return self.inputs.clone()

    def apply(self, theta: Tensor, rows: Tensor | slice | None = None) -> Tensor:
        """The identity."""
        return theta

    def size(self, theta: Tensor) -> Tensor:
        """The perturbation's norm, (B,) float64."""
        change = theta.to(torch.float64) - self.inputs.to(torch.float64)
        return self.norm_of(change.flatten(1))

    @abc.abstractmethod
    def norm_of(self, change: Tensor) -> Tensor:
        """The set's norm of flat changes (B, D)."""

    @abc.abstractmethod
    def start(self, random: Random, restart: int) -> Tensor:
        """A random point of the set, θ (B, *F)."""

    @abc.abstractmethod
    def project(self, theta: Tensor, radius: Tensor | None = None) -> Tensor:
        """The nearest point of ball ∩ box."""

    @abc.abstractmethod
    def steepest(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """The direction of one unit that climbs fastest."""

    def contains(self, theta: Tensor, size: Tensor | None = None) -> Tensor:
        """Whether size ≤ radius + τ and every coordinate is in the box, (B,) bool."""
        size = self.size(theta) if size is None else size
        flat = theta.flatten(1)
        low, high = (
            limit.expand(theta.shape[1:]).flatten() if limit.dim() else limit for limit in (self.low, self.high)
        )
        in_box = ((flat >= low) & (flat <= high)).all(dim=1)
        return in_box & (size <= self.radius + self.tolerance)

    def select(self: Self, rows: Tensor) -> Self:
        """The same ball around some of the examples."""
        return dataclasses.replace(self, inputs=self.inputs[rows], radius=self.radius[rows])

    def at(self: Self, dtype: torch.dtype) -> Self:
        """The same ball around inputs in another precision."""
        return dataclasses.replace(self, inputs=self.inputs.to(dtype))

    def free(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """The gradient without the coordinates that already stand at the limit it points beyond."""
        blocked = ((theta >= self.high) & (gradient > 0)) | ((theta <= self.low) & (gradient < 0))
        return gradient.masked_fill(blocked, 0.0)

    def scale(self) -> Tensor:
        """The radius as far as the box lets it matter, (B,) float64: finite, for step sizes."""
        side = (self.high - self.low).to(torch.float64).expand(self.inputs.shape[1:]).reshape(1, -1)
        return self.radius.clamp(max=float(self.norm_of(side)))

    def column(self, values: Tensor) -> Tensor:
        """(B,) → (B, 1, …) against the inputs, in their dtype."""
        return values.to(self.inputs.dtype).reshape(-1, *(1,) * (self.inputs.dim() - 1))
