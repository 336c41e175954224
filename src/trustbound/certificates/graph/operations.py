"""The operations a network is read into: what each computes, and what a proof needs to know of it.

Every operation works on batches (B, *F) and keeps the batch axis. Linear ones come with their transpose, for
backward bounds, and with the same map over absolute weights, for intervals and rounding errors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
import torch.nn.grad as gradients
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation(ABC):
    """One step of a network: `sources` are the places of its operands in the list, `shape` its features (*F)."""

    sources: tuple[int, ...]
    shape: Shape
    where: str = "forward"

    @abstractmethod
    def apply(self, *operands: Tensor) -> Tensor:
        """Compute the step for operands of shape (B, *F), in their dtype."""

    @property
    def features(self) -> int:
        """How many numbers one example has after this step."""
        return math.prod(self.shape)


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
    cancellation; `terms` counts the roundings of one output, multiplication and addition each.
    """

    bias: Tensor | None = None
    bias_size: Tensor | None = None

    @property
    @abstractmethod
    def terms(self) -> int:
        """How many products are summed, at most, in one output or one entry of the transpose."""

    @abstractmethod
    def absolute(self, *operands: Tensor) -> Tensor:
        """Apply the map with absolute weights and without its bias to operands that are nowhere negative."""

    @abstractmethod
    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Map coefficients (N, *shape) of the output to those of every operand."""

    def offset(self, coefficients: Tensor) -> Tensor | None:
        """Return the part (N,) that the bias adds under coefficients (N, *shape), None without a bias."""
        if self.bias is None:
            return None
        aligned = self.bias.reshape((1,) * (len(self.shape) - self.bias.ndim) + self.bias.shape)
        axes = [axis + 1 for axis, size in enumerate(aligned.shape) if size == 1]
        summed = coefficients.sum(axes, keepdim=True) if axes else coefficients
        return (summed * aligned).flatten(1).sum(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixing(Linear):
    """A linear step with one operand whose outputs mix several inputs: its rows have norms."""

    @abstractmethod
    def squares(self, operand: Tensor) -> Tensor:
        """Apply the map with squared weights to features without batch axis: squared row norms, weighted."""

    @abstractmethod
    def largest(self, operand: Tensor) -> tuple[Tensor, bool]:
        """Bound the largest |weight| · operand of each row; the flag says whether the bound is attained."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense(Mixing):
    """A matrix over the last axis: weight (out, in), bias (out,)."""

    weight: Tensor

    def apply(self, *operands: Tensor) -> Tensor:
        """Multiply by the matrix and add the bias."""
        bias = None if self.bias is None else self.bias.to(operands[0])
        return F.linear(operands[0], self.weight.to(operands[0]), bias)

    @property
    def terms(self) -> int:
        """Count the longer side of the matrix."""
        return max(self.weight.shape)

    def absolute(self, *operands: Tensor) -> Tensor:
        """Multiply by the absolute matrix."""
        return F.linear(operands[0], self.weight.abs())

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Multiply by the transposed matrix."""
        return (coefficients @ self.weight,)

    def squares(self, operand: Tensor) -> Tensor:
        """Multiply by the squared matrix."""
        return F.linear(operand, self.weight.square())

    def largest(self, operand: Tensor) -> tuple[Tensor, bool]:
        """Take the largest weighted entry of each row."""
        return (self.weight.abs() * operand.unsqueeze(-2)).amax(-1), True


_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_BACKWARD: dict[int, Callable[..., Tensor]] = {
    1: gradients.conv1d_input,
    2: gradients.conv2d_input,
    3: gradients.conv3d_input,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution(Mixing):
    """A convolution in one, two or three dimensions, zero-padded: weight (out, in / groups, *kernel).

    `bias` is (out, 1, …, 1); `extent` is the shape (channels, *size) of the operand.
    """

    weight: Tensor
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int
    extent: Shape

    def apply(self, *operands: Tensor) -> Tensor:
        """Convolve and add the bias."""
        outputs = self._convolve(operands[0], self.weight.to(operands[0]))
        return outputs if self.bias is None else outputs + self.bias.to(operands[0])

    @property
    def terms(self) -> int:
        """Count what one output sums, or one entry of the transpose."""
        kernel = math.prod(self.weight.shape[2:])
        return kernel * max(self.weight.shape[1], self.weight.shape[0] // self.groups)

    def absolute(self, *operands: Tensor) -> Tensor:
        """Convolve with absolute weights."""
        return self._convolve(operands[0], self.weight.abs())

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Apply the transposed convolution, to exactly the operand's size."""
        return (self._backward(coefficients, self.extent[1:], self.padding),)

    def spread(self, coefficients: Tensor) -> Tensor:
        """Apply the transposed convolution to windows without padding: they grow by the kernel."""
        sizes = zip(coefficients.shape[2:], self.stride, self.dilation, self.weight.shape[2:], strict=True)
        grown = tuple((side - 1) * s + d * (k - 1) + 1 for side, s, d, k in sizes)
        return self._backward(coefficients, grown, (0,) * len(grown))

    def _backward(self, coefficients: Tensor, size: Shape, padding: Shape) -> Tensor:
        # The gradient kernel is faster in float64 than the transposed convolution, which it equals.
        backward = _BACKWARD[self.weight.ndim - 2]
        shape = (len(coefficients), self.extent[0], *size)
        return backward(shape, self.weight, coefficients, self.stride, padding, self.dilation, self.groups)

    def squares(self, operand: Tensor) -> Tensor:
        """Convolve with squared weights."""
        return self._convolve(operand.unsqueeze(0), self.weight.square()).squeeze(0)

    def largest(self, operand: Tensor) -> tuple[Tensor, bool]:
        """Bound by the channel's largest weight times the largest entry: not attained at every position."""
        peaks = self.weight.abs().flatten(1).amax(1) * operand.max()
        return peaks.reshape(-1, *[1] * (len(self.shape) - 1)).expand(self.shape), False

    def _convolve(self, operand: Tensor, weight: Tensor) -> Tensor:
        convolve = _CONVOLUTIONS[weight.ndim - 2]
        return convolve(operand, weight, None, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Mixing):
    """The mean over some feature axes, counted with the batch axis as 0, which keep size 1."""

    axes: Shape
    extent: Shape
    _count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_count", math.prod(self.extent[axis - 1] for axis in self.axes))

    def apply(self, *operands: Tensor) -> Tensor:
        """Average."""
        return operands[0].mean(self.axes, keepdim=True)

    @property
    def terms(self) -> int:
        """Count what is averaged."""
        return self._count

    def absolute(self, *operands: Tensor) -> Tensor:
        """Average: no weight is negative."""
        return operands[0].mean(self.axes, keepdim=True)

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Give every averaged entry its equal share."""
        return ((coefficients / self._count).expand(-1, *self.extent),)

    def squares(self, operand: Tensor) -> Tensor:
        """Average and divide by the count once more."""
        return operand.unsqueeze(0).mean(self.axes, keepdim=True).squeeze(0) / self._count

    def largest(self, operand: Tensor) -> tuple[Tensor, bool]:
        """Divide the largest entry by the count."""
        return operand.unsqueeze(0).amax(self.axes, keepdim=True).squeeze(0) / self._count, True


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
    """Two operands of one shape added, each with its sign."""

    signs: tuple[float, ...]

    def apply(self, *operands: Tensor) -> Tensor:
        """Add or subtract."""
        return operands[0] * self.signs[0] + operands[1] * self.signs[1]

    @property
    def terms(self) -> int:
        """Two summands."""
        return 2

    def absolute(self, *operands: Tensor) -> Tensor:
        """Add."""
        return operands[0] + operands[1]

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
