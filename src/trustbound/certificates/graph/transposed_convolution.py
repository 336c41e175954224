"""Transposed convolutions: linear steps whose transpose is a convolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from trustbound.certificates.graph.matrix_operations import CONVOLUTIONS, Convolution, MatrixOperation
from trustbound.certificates.graph.node_index import Arguments, NodeIndex, constant_only, pair
from trustbound.certificates.graph.operations import Shape

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator

_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True, kw_only=True, eq=False)
class TransposedConvolution(MatrixOperation):
    """A transposed convolution in one, two or three dimensions: weight (in, out / groups, *kernel).

    `bias` is (out, 1, …, 1); `extent` is the shape (channels, *size) of the operand.

    >>> import torch
    >>> step = TransposedConvolution(sources=(0,), shape=(1, 4), extent=(1, 2), weight=torch.tensor([[[1.0, 2.0]]]),
    ...                              stride=(2,), padding=(0,), output_padding=(0,), dilation=(1,), groups=1)
    >>> step.apply(torch.tensor([[[1.0, 3.0]]])), step.transpose(torch.tensor([[[1.0, 0.0, 0.0, 1.0]]]))
    (tensor([[[1., 2., 3., 6.]]]), (tensor([[[1., 2.]]]),))
    """

    weight: Tensor
    stride: Shape
    padding: Shape
    output_padding: Shape
    dilation: Shape
    groups: int
    extent: Shape

    def apply(self, *operands: Tensor) -> Tensor:
        """Spread every number over its window and add the bias."""
        outputs = self._spread(operands[0], self.weight.to(operands[0]))
        return outputs if self.bias is None else outputs + self.bias.to(operands[0])

    @property
    def terms(self) -> int:
        """Count what one output sums, or one entry of the transpose."""
        return math.prod(self.weight.shape[2:]) * max(self.weight.shape[0] // self.groups, self.weight.shape[1])

    def absolute(self, *operands: Tensor) -> Tensor:
        """Spread with absolute weights."""
        return self._spread(operands[0], self.weight.abs())

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Convolve, and cut to the operand's size: a longer padding behind than the stride leaves windows over."""
        convolve = CONVOLUTIONS[self.weight.ndim - 2]
        found = convolve(coefficients, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        for axis, side in enumerate(self.extent[1:], 2):
            found = found.narrow(axis, 0, side)
        return (found,)

    def squares(self, operand: Tensor) -> Tensor:
        """Spread with squared weights."""
        return self._spread(operand.unsqueeze(0), self.weight.square()).squeeze(0)

    def largest(self, operand: Tensor) -> Tensor:
        """Bound by the channel's largest weight times the largest entry."""
        grouped = self.weight.abs().flatten(2).amax(2).unflatten(0, (self.groups, -1)).amax(1)
        peaks: Tensor = grouped.flatten() * operand.max()
        return peaks.reshape(-1, *[1] * (len(self.shape) - 1)).expand(self.shape)

    def adjoint(self) -> Convolution:
        """Return the convolution of which this one is the transpose, but for windows that are left over."""
        return Convolution(
            sources=self.sources,
            shape=self.extent,
            weight=self.weight,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            extent=self.shape,
        )

    def _spread(self, operand: Tensor, weight: Tensor) -> Tensor:
        spread = _TRANSPOSED[weight.ndim - 2]
        return spread(operand, weight, None, self.stride, self.padding, self.output_padding, self.groups, self.dilation)


def transposed_convolution(translator: Translator, given: Arguments) -> NodeIndex:
    """Write a transposed convolution with constant weights."""
    constant_only(translator, given, "weight", "bias")
    weight, index = given["weight"].double(), given["input"]
    count = weight.ndim - 2
    if len(translator.shape) != count + 1:
        raise translator.refusal("a batch without an axis of channels")
    if 0 in translator.shape:
        raise translator.refusal(f"an output of shape (B, {', '.join(map(str, translator.shape))}), without numbers")
    bias = None if given["bias"] is None else given["bias"].double().reshape(-1, *[1] * count)
    return translator.add(
        TransposedConvolution,
        index,
        weight=weight,
        bias=bias,
        bias_size=None if bias is None else bias.abs(),
        stride=pair(given["stride"], count),
        padding=pair(given["padding"], count),
        output_padding=pair(given["output_padding"], count),
        dilation=pair(given["dilation"], count),
        groups=given["groups"],
        extent=translator.extent(index),
    )
