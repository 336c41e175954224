"""Arithmetic with constants, sums of two values, and limits: how each is written as steps of the list."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustbound.certificates.graph.node_index import Arguments, NodeIndex, constant_only, depends
from trustbound.certificates.graph.operations import Activation, Scale, Sum
from trustbound.certificates.graph.products import product

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator


def clamp(translator: Translator, given: Arguments) -> NodeIndex:
    """Write limits as ReLUs: low + relu(x − low), then high − relu(high − ·).

    The module rounds nothing but the limits; so only the last step is in its precision, the others are exact.
    """
    constant_only(translator, given, "min", "max", "min_val", "max_val")
    index = translator.cast(given["self"])
    low = _limit(translator, given.get("min", given.get("min_val")), -math.inf)
    high = _limit(translator, given.get("max", given.get("max_val")), math.inf)
    if low is None and high is None:
        return index
    if high is None and not bool(low.any()):
        return translator.add(Activation, index)
    shift, size = low, None if low is None else low.abs()
    if low is not None:
        index = _exactly(translator, index, 1.0, -low, size) if bool(low.any()) else index
        index = translator.add(Activation, index, dtype=torch.float64)
    if high is None:
        return translator.add(Scale, index, scale=_number(translator, 1.0), bias=shift, bias_size=size)
    size = high.abs() if low is None else high.abs() + low.abs()
    index = _exactly(translator, index, -1.0, high if low is None else high - low, size)
    index = translator.add(Activation, index, dtype=torch.float64)
    return translator.add(Scale, index, scale=_number(translator, -1.0), bias=high, bias_size=size)


def hard_sigmoid(translator: Translator, given: Arguments) -> NodeIndex:
    """Write relu6(x + 3) / 6 as limits of x / 6 + 1/2, charged for a product and a sum."""
    index = translator.cast(given["self"])
    half = _number(translator, 0.5)
    index = translator.add(Scale, index, scale=_number(translator, 1 / 6), bias=half, bias_size=half)
    return clamp(translator, {"self": index, "min": 0.0, "max": 1.0})


def hard_swish(translator: Translator, given: Arguments) -> NodeIndex:
    """Write x · relu6(x + 3) / 6 as a product; kernels divide last."""
    return product(translator, given["self"], hard_sigmoid(translator, given), peak=6.0)


def absolute(translator: Translator, given: Arguments) -> NodeIndex:
    """Write |x| as relu(x) + relu(−x), of which one is zero: nothing is rounded."""
    index = given["self"]
    turned = _exactly(translator, index, -1.0, None, None)
    parts = [translator.add(Activation, part, dtype=torch.float64) for part in (index, turned)]
    return translator.add(Sum, *parts, signs=(1.0, 1.0))


def maximum(translator: Translator, given: Arguments) -> NodeIndex:
    """Write the larger of a value and a constant as a lower limit, of two values a, b as b + relu(a − b)."""
    return _against(translator, given, "min")


def minimum(translator: Translator, given: Arguments) -> NodeIndex:
    """Write the smaller of a value and a constant as an upper limit, of two values a, b as a − relu(a − b)."""
    return _against(translator, given, "max")


def _against(translator: Translator, given: Arguments, side: str) -> NodeIndex:
    index, limit = given["self"], given["other"]
    if isinstance(index, NodeIndex) and isinstance(limit, NodeIndex):
        if not translator.extent(index) == translator.extent(limit) == translator.shape:
            raise translator.refusal("values that broadcast between features")
        # The module rounds nothing here: the difference is exact, and the sum is charged for one rounding too many.
        gap = translator.add(Sum, index, limit, signs=(1.0, -1.0), dtype=torch.float64)
        gap = translator.add(Activation, gap, dtype=torch.float64)
        base, sign = (limit, 1.0) if side == "min" else (index, -1.0)
        return translator.add(Sum, base, gap, signs=(1.0, sign))
    if not isinstance(index, NodeIndex):
        index, limit = limit, index
    if translator.extent(index) != translator.shape:
        raise translator.refusal("a constant that widens the features")
    return clamp(translator, {"self": index, side: limit})


def _limit(translator: Translator, value: Any, nothing: float) -> Any:
    """Return a limit as a tensor, None where it limits nothing."""
    if value is None or (not isinstance(value, Tensor) and value == nothing):
        return None
    found = translator.constant(value, translator.shape)
    if not bool(found.isfinite().all()):
        raise translator.refusal("a limit that is not a finite number")
    return found


def _number(translator: Translator, value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=translator.device)


def _exactly(translator: Translator, index: NodeIndex, factor: float, shift: Tensor | None, size: Any) -> NodeIndex:
    """Append factor · x + shift as a step that the module does not compute, and so does not round."""
    scale = _number(translator, factor)
    return translator.add(Scale, index, scale=scale, bias=shift, bias_size=size, dtype=torch.float64)


def _affine(translator: Translator, index: int, factor: Any, shift: Any, sign: float = 1) -> NodeIndex:
    """Append factor · x + sign · shift."""
    shape = translator.shape
    scale = translator.constant(factor, shape)
    bias = None if shift is None else translator.constant(shift, shape) * sign
    if translator.extent(index) != shape:
        raise translator.refusal("a constant that widens the features")
    size = None if bias is None else bias.abs()
    return translator.add(Scale, index, scale=scale, bias=bias, bias_size=size)


def add(translator: Translator, given: Arguments, sign: float = 1) -> NodeIndex:
    """Write a sum: of two nodes, or of one and a constant."""
    left, right, factor = given["self"], given["other"], sign * given["alpha"]
    if isinstance(left, NodeIndex) and isinstance(right, NodeIndex):
        if translator.extent(left) != translator.extent(right):
            raise translator.refusal("a sum that broadcasts between features")
        return translator.add(Sum, left, right, signs=(1.0, float(factor)))
    if isinstance(left, NodeIndex):
        return _affine(translator, left, 1.0, right, factor)
    return _affine(translator, right, factor, left)


def subtract(translator: Translator, given: Arguments) -> NodeIndex:
    """Write a difference."""
    return add(translator, given, -1)


def reversed_subtract(translator: Translator, given: Arguments) -> NodeIndex:
    """Write other − self."""
    return subtract(translator, {**given, "self": given["other"], "other": given["self"]})


def multiply(translator: Translator, given: Arguments) -> NodeIndex:
    """Write a product with a constant, or of two values that depend on the input."""
    left, right = given["self"], given["other"]
    if isinstance(left, NodeIndex) and isinstance(right, NodeIndex):
        return product(translator, left, right)
    index, factor = (left, right) if isinstance(left, NodeIndex) else (right, left)
    return _affine(translator, index, factor, None)


def divide(translator: Translator, given: Arguments) -> NodeIndex:
    """Write a quotient by a constant."""
    if not isinstance(given["self"], NodeIndex) or depends(given["other"]) or given.get("rounding_mode"):
        raise translator.refusal("a quotient by a value that depends on the input, or rounded")
    divisor = translator.constant(given["other"], translator.shape)
    return _affine(translator, given["self"], 1 / divisor, None)


def negate(translator: Translator, given: Arguments) -> NodeIndex:
    """Write −x."""
    return _affine(translator, given["self"], -1.0, None)
