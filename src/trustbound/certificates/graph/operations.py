"""The operations a network is read into: what each computes, and what a proof needs to know of it.

Every operation works on batches (B, *F) and keeps the batch axis. Linear ones come with their transpose, for
backward bounds, and with the same map over absolute weights, for intervals and rounding errors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation(ABC):
    """One step of a network: `sources` are the indices of its operands in the list, `shape` its features (*F).

    `dtype` is the precision in which the module computes the step and stores its result; None is exact arithmetic.
    """

    sources: tuple[int, ...]
    shape: Shape
    where: str = "forward"
    dtype: torch.dtype | None = torch.float64

    @abstractmethod
    def apply(self, *operands: Tensor) -> Tensor:
        """Compute the step for operands of shape (B, *F), in their dtype."""

    def limits(self, *ends: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest values for those of each operand: here of a step of one that never falls."""
        low, high = ends
        return self.apply(low), self.apply(high)

    @property
    def features(self) -> int:
        """How many numbers one example has after this step."""
        return math.prod(self.shape)

    @property
    def held(self) -> int:
        """How many numbers of one example a relaxation of this step keeps, about."""
        return self.features


@dataclass(frozen=True, kw_only=True, eq=False)
class Input(Operation):
    """The input itself."""

    def apply(self, *operands: Tensor) -> Tensor:
        """Pass the input through."""
        return operands[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation(Operation):
    """ReLU, or leaky ReLU with `slope` in [0, 1] below zero.

    >>> Activation(sources=(0,), shape=(2,), slope=0.5).apply(torch.tensor([[-2.0, 3.0]]))
    tensor([[-1.,  3.]])
    """

    slope: float = 0.0

    def apply(self, *operands: Tensor) -> Tensor:
        """Scale what is negative by `slope`."""
        return F.leaky_relu(operands[0], self.slope) if self.slope else operands[0].relu()


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Operation):
    """The largest of each window, in two dimensions."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False

    def apply(self, *operands: Tensor) -> Tensor:
        """Pool by maximum."""
        return self.winners(operands[0])[0]

    def winners(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maxima and where in the flattened plane each was found."""
        return F.max_pool2d(
            values, self.kernel, self.stride, self.padding, self.dilation, self.ceil, return_indices=True
        )

    @property
    def overlap(self) -> int:
        """In how many windows one input can stand at most.

        >>> MaxPool(sources=(0,), shape=(1, 3, 3), kernel=(3, 3), stride=(2, 2)).overlap
        4
        """
        return math.prod(
            -(-k // s) if d == 1 else k for k, s, d in zip(self.kernel, self.stride, self.dilation, strict=True)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Operation):
    """A step that is linear in all its operands together, plus a constant `bias`.

    `bias_size` bounds the magnitudes that `bias` was summed from, so that rounding errors are not hidden by
    cancellation; `terms` counts the roundings of one output, multiplication and addition each. `peak` says how many
    times larger than the sum of its products an intermediate may be (a mean sums first and divides then). `parts`
    are the steps that the module computes one after another where several were folded into this one.
    """

    bias: Tensor | None = None
    bias_size: Tensor | None = None
    peak: float = 1.0
    parts: tuple[Linear, ...] = ()

    @property
    @abstractmethod
    def terms(self) -> int:
        """How many products are summed, at most, in one output or one entry of the transpose."""

    @abstractmethod
    def absolute(self, *operands: Tensor) -> Tensor:
        """Apply the map with absolute weights and without its bias to operands that are nowhere negative."""

    def summed(self, *sizes: Tensor) -> Tensor:
        """Bound the magnitudes that are rounded on the way to each output, for operands of sizes (B, *F)."""
        total = self.absolute(*sizes)
        return total if self.bias_size is None else total + self.bias_size

    @abstractmethod
    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Map coefficients (N, *shape) of the output to those of every operand."""

    def offset(self, coefficients: Tensor) -> Tensor | None:
        """Return the part (N,) that the bias adds under coefficients (N, *shape), None without a bias.

        Added up in float64, whatever the coefficients are.
        """
        if self.bias is None:
            return None
        aligned = self.bias.reshape((1,) * (len(self.shape) - self.bias.ndim) + self.bias.shape)
        axes = [axis + 1 for axis, size in enumerate(aligned.shape) if size == 1]
        summed = coefficients.sum(axes, keepdim=True, dtype=torch.float64) if axes else coefficients
        return (summed * aligned.double()).flatten(1).sum(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale(Linear):
    """A factor and a shift for every feature; both broadcast to `shape`."""

    scale: Tensor

    def apply(self, *operands: Tensor) -> Tensor:
        """Multiply and shift."""
        scaled = operands[0] * self.scale.to(operands[0])
        return scaled if self.bias is None else scaled + self.bias.to(operands[0])

    @property
    def terms(self) -> int:
        """One product."""
        return 1

    def absolute(self, *operands: Tensor) -> Tensor:
        """Multiply by the absolute factor."""
        return operands[0] * self.scale.abs()

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Multiply by the factor."""
        return (coefficients * self.scale,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrange(Linear):
    """The same numbers in another shape: axes (counted with the batch as 0) permuted first, then reshaped."""

    extent: Shape
    axes: Shape | None = None

    def apply(self, *operands: Tensor) -> Tensor:
        """Permute and reshape."""
        values = operands[0] if self.axes is None else operands[0].permute(self.axes)
        return values.reshape(-1, *self.shape)

    @property
    def terms(self) -> int:
        """Nothing is summed."""
        return 0

    def absolute(self, *operands: Tensor) -> Tensor:
        """Permute and reshape."""
        return self.apply(*operands)

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Undo the reshaping and the permutation."""
        if self.axes is None:
            return (coefficients.reshape(-1, *self.extent),)
        permuted = [self.extent[axis - 1] for axis in self.axes[1:]]
        inverse = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return (coefficients.reshape(-1, *permuted).permute(inverse),)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sum(Linear):
    """Two operands of one shape added, each with its sign, or another factor."""

    signs: tuple[float, ...]

    def apply(self, *operands: Tensor) -> Tensor:
        """Add or subtract."""
        return operands[0] * self.signs[0] + operands[1] * self.signs[1]

    @property
    def terms(self) -> int:
        """Two summands."""
        return 2

    def absolute(self, *operands: Tensor) -> Tensor:
        """Add, each by the size of its sign."""
        return operands[0] * abs(self.signs[0]) + operands[1] * abs(self.signs[1])

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Hand the coefficients to both."""
        return tuple(coefficients if sign == 1 else coefficients * sign for sign in self.signs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Concatenate(Linear):
    """Operands laid side by side along one axis, counted with the batch axis as 0."""

    axis: int
    lengths: tuple[int, ...]

    def apply(self, *operands: Tensor) -> Tensor:
        """Lay side by side."""
        return torch.cat(operands, self.axis)

    @property
    def terms(self) -> int:
        """Nothing is summed."""
        return 0

    def absolute(self, *operands: Tensor) -> Tensor:
        """Lay side by side."""
        return torch.cat(operands, self.axis)

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Cut apart."""
        return torch.split(coefficients, list(self.lengths), self.axis)


@dataclass(frozen=True, kw_only=True, eq=False)
class LogSoftmax(Linear):
    """Logits less the logarithm of the sum of their exponentials: one number off all logits of an example.

    It is the last step of a network, and only rows that sum to zero are bounded behind it, as margins do: these see
    no common shift. Up to that shift the step is the identity, and so are its limits; its kernel computes the shift
    once for all logits, so that whatever the shift itself is off by cancels too.

    >>> step = LogSoftmax(sources=(0,), shape=(2,))
    >>> [round(number, 4) for number in step.apply(torch.tensor([[1.0, 3.0]]))[0].tolist()]
    [-2.1269, -0.1269]
    """

    def apply(self, *operands: Tensor) -> Tensor:
        """Compute the logarithms of probabilities."""
        return operands[0].log_softmax(1)

    @property
    def terms(self) -> int:
        """The largest logit and the logarithm of a sum, taken off one after the other or together."""
        return 4

    def absolute(self, *operands: Tensor) -> Tensor:
        """Pass through."""
        return operands[0]

    def summed(self, *sizes: Tensor) -> Tensor:
        """Add to each logit's size the largest one and the logarithm of the sum, at most log C after it."""
        return sizes[0] + sizes[0].amax(1, keepdim=True) + (math.log(self.shape[0]) + 1)

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Pass through."""
        return (coefficients,)
