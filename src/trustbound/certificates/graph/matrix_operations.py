"""Matrix operations: linear steps whose outputs sum many inputs, and whose rows have norms."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
import torch.nn.grad as gradients
from torch import Tensor

from trustbound.certificates.graph.operations import Linear, Shape


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixOperation(Linear):
    """A linear step with one operand whose outputs sum several inputs: its rows have norms."""

    @abstractmethod
    def squares(self, operand: Tensor) -> Tensor:
        """Apply the map with squared weights to features without batch axis: squared row norms, weighted."""

    @abstractmethod
    def largest(self, operand: Tensor) -> Tensor:
        """Bound the largest |weight| · operand of each row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense(MatrixOperation):
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

    def largest(self, operand: Tensor) -> Tensor:
        """Take the largest weighted entry of each row."""
        return (self.weight.abs() * operand.unsqueeze(-2)).amax(-1)


CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_BACKWARD: dict[int, Callable[..., Tensor]] = {
    1: gradients.conv1d_input,
    2: gradients.conv2d_input,
    3: gradients.conv3d_input,
}


#: Channels of an operand below which products and sums of columns are faster than float32 kernels for convolutions.
_FEW = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution(MatrixOperation):
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
        # The gradient kernel is faster than the transposed convolution, which it equals.
        single = coefficients.dtype == torch.float32 and self.weight.ndim == 4
        if single and self.groups == 1 and self.extent[0] < _FEW:
            columns = self.weight.flatten(1).mT @ coefficients.flatten(2)
            return F.fold(columns, size, self.weight.shape[2:], self.dilation, padding, self.stride)
        backward = _BACKWARD[self.weight.ndim - 2]
        shape = (len(coefficients), self.extent[0], *size)
        return backward(shape, self.weight, coefficients, self.stride, padding, self.dilation, self.groups)

    def squares(self, operand: Tensor) -> Tensor:
        """Convolve with squared weights."""
        return self._convolve(operand.unsqueeze(0), self.weight.square()).squeeze(0)

    def largest(self, operand: Tensor) -> Tensor:
        """Bound by the channel's largest weight times the largest entry."""
        peaks = self.weight.abs().flatten(1).amax(1) * operand.max()
        return peaks.reshape(-1, *[1] * (len(self.shape) - 1)).expand(self.shape)

    def _convolve(self, operand: Tensor, weight: Tensor) -> Tensor:
        convolve = CONVOLUTIONS[weight.ndim - 2]
        return convolve(operand, weight, None, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(MatrixOperation):
    """The mean over some feature axes, counted with the batch axis as 0, which keep size 1."""

    axes: Shape
    extent: Shape
    _count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_count", math.prod(self.extent[axis - 1] for axis in self.axes))
        object.__setattr__(self, "peak", float(self._count))

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

    def largest(self, operand: Tensor) -> Tensor:
        """Divide the largest entry by the count."""
        return operand.unsqueeze(0).amax(self.axes, keepdim=True).squeeze(0) / self._count
