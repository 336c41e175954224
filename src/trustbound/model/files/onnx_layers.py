"""Operators with weights or windows: products with matrices, convolutions, pools, normalisations."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trustbound.errors import UnsupportedError
from trustbound.model.files.onnx_network import Call

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def gemm(call: Call, left: Tensor, right: Tensor, shift: Any = None) -> Tensor:
    """α · A · B + β · C, with A and B transposed where the node says so."""
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    left = left.mT if call.attribute("transA") else left
    weight = right if call.attribute("transB") else right.mT
    plain = isinstance(shift, Tensor) and shift.numel() == weight.shape[0] == shift.shape[-1]
    if plain and alpha == beta == 1.0:
        return F.linear(left, weight, shift.reshape(-1))
    found = F.linear(left, weight)
    found = found if alpha == 1.0 else alpha * found
    return found if shift is None else found + (shift if beta == 1.0 else beta * shift)


def matmul(call: Call, left: Tensor, right: Tensor) -> Tensor:
    """A product of matrices; one with a constant on the left is written as a layer, which proofs read."""
    if call.shapes[0] or left.ndim != 2:
        return torch.matmul(left, right)
    return F.linear(right, left) if len(call.shapes[1]) == 1 else F.linear(right.mT, left).mT


def convolution(call: Call, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution."""
    count = weight.ndim - 2
    stride, dilation = (call.attribute(name) or (1,) * count for name in ("strides", "dilations"))
    sides = _sides(call, tuple(weight.shape[2:]), stride, dilation)
    inputs, padding = _padded(inputs, sides, 0.0)
    return _CONVOLUTIONS[count](inputs, weight, bias, stride, padding, dilation, call.attribute("group", 1))


def transposed_convolution(call: Call, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A transposed convolution: all of it is computed, and what the padding takes away is cut off."""
    count = weight.ndim - 2
    stride, dilation, extra = (
        call.attribute(name) or (number,) * count
        for name, number in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    group = call.attribute("group", 1)
    wide = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    full = [s * (n - 1) + e + w for n, s, e, w in zip(call.shape[2:], stride, extra, wide, strict=True)]
    before, wanted = _cut(call, full, stride, count)
    if all(2 * b + size == f for b, size, f in zip(before, wanted, full, strict=True)):
        return _TRANSPOSED[count](inputs, weight, bias, stride, before, extra, group, dilation)
    found = _TRANSPOSED[count](inputs, weight, bias, stride, 0, extra, group, dilation)
    for axis, (start, size) in enumerate(zip(before, wanted, strict=True), 2):
        found = found.narrow(axis, start, size)
    return found


def _cut(call: Call, full: list[int], stride: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """How much of a transposed convolution is cut off in front, and how much is kept, along each axis."""
    mode, shape = call.attribute("auto_pad", "NOTSET"), call.attribute("output_shape")
    if shape is None and mode in ("NOTSET", "VALID"):
        pads = call.attribute("pads") if mode == "NOTSET" else None
        pads = pads or (0,) * (2 * count)
        return list(pads[:count]), [f - pads[axis] - pads[axis + count] for axis, f in enumerate(full)]
    wanted = list(shape[-count:]) if shape else [n * s for n, s in zip(call.shape[2:], stride, strict=True)]
    total = [max(0, f - size) for f, size in zip(full, wanted, strict=True)]
    return [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total], wanted


def _sides(call: Call, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """How much is laid before and behind each axis of a plane."""
    mode, count = call.attribute("auto_pad", "NOTSET"), len(kernel)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for size, k, s, d in zip(call.shape[2:], kernel, stride, dilation, strict=True):
            total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            less, more = total // 2, total - total // 2
            found.append((less, more) if mode == "SAME_UPPER" else (more, less))
        return found
    pads = call.attribute("pads") if mode == "NOTSET" else None
    pads = pads or (0,) * (2 * count)
    return list(zip(pads[:count], pads[count:], strict=True))


def _padded(inputs: Tensor, sides: list[tuple[int, int]], value: float) -> tuple[Tensor, tuple[int, ...]]:
    """Leave padding that is alike on both sides to the operator; lay any other around now."""
    if all(before == after for before, after in sides):
        return inputs, tuple(before for before, _ in sides)
    given = [size for pair in reversed(sides) for size in pair]
    return F.pad(inputs, given, "constant", value), (0,) * len(sides)


def _window(call: Call) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    kernel = call.attribute("kernel_shape")
    count = len(kernel)
    stride, dilation = (call.attribute(name) or (1,) * count for name in ("strides", "dilations"))
    return count, kernel, stride, dilation, _sides(call, kernel, stride, dilation)


def max_pool(call: Call, inputs: Tensor) -> Tensor:
    """The largest of each window."""
    count, kernel, stride, dilation, sides = _window(call)
    if any(2 * max(pair) > k for pair, k in zip(sides, kernel, strict=True)):  # more than torch pads
        inputs, padding = F.pad(inputs, [n for pair in reversed(sides) for n in pair], value=-math.inf), (0,) * count
    else:
        inputs, padding = _padded(inputs, sides, -math.inf)
    return _MAX_POOLS[count](inputs, kernel, stride, padding, dilation, bool(call.attribute("ceil_mode")))


def average_pool(call: Call, inputs: Tensor) -> Tensor:
    """The mean of each window; what lies outside counts only where the node says so."""
    count, kernel, stride, dilation, sides = _window(call)
    if any(number != 1 for number in dilation):
        raise UnsupportedError("AveragePool with dilations is not read. Write it as a Conv with equal weights")
    pool = functools.partial(
        _AVERAGE_POOLS[count], kernel_size=kernel, stride=stride, ceil_mode=bool(call.attribute("ceil_mode"))
    )
    outside = bool(call.attribute("count_include_pad"))
    alike = all(before == after and 2 * before <= k for (before, after), k in zip(sides, kernel, strict=True))
    if alike:
        found: Tensor = pool(inputs, padding=tuple(before for before, _ in sides), count_include_pad=outside)
        return found
    given = [size for pair in reversed(sides) for size in pair]
    found = pool(F.pad(inputs, given))
    if outside:
        return found
    ones = torch.ones((1, 1, *call.shape[2:]), dtype=inputs.dtype, device=inputs.device)
    return found / pool(F.pad(ones, given))


def global_average_pool(call: Call, inputs: Tensor) -> Tensor:
    """The mean of each plane."""
    return inputs.mean(list(range(2, len(call.shape))), keepdim=True)


def global_max_pool(call: Call, inputs: Tensor) -> Tensor:
    """The largest of each plane."""
    return inputs.amax(list(range(2, len(call.shape))), keepdim=True)


def batch_normalisation(
    call: Call, inputs: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """Batch norm with the statistics of the file."""
    if call.attribute("training_mode"):
        raise UnsupportedError(
            "BatchNormalization in training mode depends on the batch. Export the model in eval mode"
        )
    return F.batch_norm(inputs, mean, variance, scale, shift, False, 0.0, call.attribute("epsilon", 1e-5))


def layer_normalisation(call: Call, inputs: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    """Layer norm over the last axes."""
    axis = call.axis(call.attribute("axis", -1))
    shape = list(call.shape[axis:])
    scale = scale.expand(shape)
    shift = None if shift is None else shift.expand(shape)
    return F.layer_norm(inputs, shape, scale, shift, call.attribute("epsilon", 1e-5))


def instance_normalisation(call: Call, inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Instance norm with the statistics of each plane."""
    return F.instance_norm(inputs, None, None, scale, shift, eps=call.attribute("epsilon", 1e-5))


def dropout(call: Call, inputs: Tensor, ratio: Any = None, training: Any = None) -> Tensor:
    """Nothing at inference."""
    if training:
        raise UnsupportedError("Dropout in training mode is random. Export the model in eval mode")
    return inputs


def resize(call: Call, inputs: Tensor, *sizes: Any) -> Tensor:
    """A plane enlarged by whole factors, each number repeated."""
    factors = _factors(call, sizes)
    mode, rounding = call.attribute("mode", "nearest"), call.attribute("nearest_mode", "round_prefer_floor")
    place = call.attribute("coordinate_transformation_mode", "half_pixel")
    known = (place == "asymmetric" and rounding == "floor") or (place == "half_pixel" and rounding.startswith("round"))
    if mode != "nearest" or not (known or call.opset < 11) or factors[:2] != [1, 1] or any(f % 1 for f in factors):
        raise UnsupportedError("Resize is read for mode nearest and whole factors of the plane alone")
    for axis, factor in enumerate(factors[2:], 2):
        inputs = inputs.repeat_interleave(int(factor), axis)
    return inputs


def _factors(call: Call, given: Sequence[Any]) -> list[float]:
    """Factors along every axis, from scales or from sizes: Upsample has scales alone, Resize has a box before them."""
    sizes = given[2] if len(given) > 2 else None
    if sizes:
        return [wanted / size for wanted, size in zip(sizes, call.shape, strict=True)]
    scales = given[1] if len(given) > 1 else given[0] if given else call.attribute("scales")
    return [float(factor) for factor in scales]
