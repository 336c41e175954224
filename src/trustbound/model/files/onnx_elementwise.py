"""Operators that treat numbers one by one, and those that sum over axes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trustbound.model.files.onnx_network import Call


def plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator that has no attributes."""
    return functools.partial(_plain, function)


def _plain(function: Callable[..., Tensor], call: Call, *operands: Any) -> Tensor:
    return function(*operands)


def folded(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """An operator of any number of operands that takes them two by two."""
    return functools.partial(_folded, function)


def _folded(function: Callable[[Any, Any], Any], call: Call, *operands: Any) -> Any:
    return functools.reduce(function, operands)


def add(left: Any, right: Any) -> Any:
    """A sum."""
    return left + right


def subtract(left: Any, right: Any) -> Any:
    """A difference."""
    return left - right


def multiply(left: Any, right: Any) -> Any:
    """A product."""
    return left * right


def divide(left: Any, right: Any) -> Any:
    """A quotient."""
    return left / right


def power(base: Any, exponent: Any) -> Any:
    """A power; small whole exponents as products, which have gradients everywhere."""
    if isinstance(exponent, int | float) and exponent in (1, 2, 3):
        return functools.reduce(multiply, [base] * int(exponent))
    return base**exponent


def larger(left: Any, right: Any) -> Any:
    """The larger of two."""
    if not isinstance(left, Tensor):
        left, right = right, left
    return torch.maximum(left, right) if isinstance(right, Tensor) else left.clamp(min=right)


def smaller(left: Any, right: Any) -> Any:
    """The smaller of two."""
    if not isinstance(left, Tensor):
        left, right = right, left
    return torch.minimum(left, right) if isinstance(right, Tensor) else left.clamp(max=right)


def mean(call: Call, *operands: Any) -> Any:
    """The mean of several values."""
    return functools.reduce(add, operands) / len(operands)


def clip(call: Call, inputs: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Limits; those that limit nothing are left out."""
    low = _number(call.attribute("min") if low is None else low)
    high = _number(call.attribute("max") if high is None else high)
    most = torch.finfo(call.dtype).max
    low = None if low is not None and low <= -most else low
    high = None if high is not None and high >= most else high
    return inputs if low is None and high is None else inputs.clamp(low, high)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def leaky_relu(call: Call, inputs: Tensor) -> Tensor:
    """Leaky ReLU."""
    return F.leaky_relu(inputs, call.attribute("alpha", 0.01))


def prelu(call: Call, inputs: Tensor, slope: Any) -> Tensor:
    """ReLU with slopes of its own below zero: one of both summands is zero."""
    found: Tensor = inputs.relu() - slope * (-inputs).relu()
    return found


def elu(call: Call, inputs: Tensor) -> Tensor:
    """Exponential linear unit."""
    return F.elu(inputs, call.attribute("alpha", 1.0))


def selu(call: Call, inputs: Tensor) -> Tensor:
    """Scaled exponential linear unit."""
    alpha, gamma = (
        call.attribute("alpha", 1.67326319217681884765625),
        call.attribute("gamma", 1.05070102214813232421875),
    )
    found: Tensor = gamma * F.elu(inputs, alpha)
    return found


def celu(call: Call, inputs: Tensor) -> Tensor:
    """Continuously differentiable exponential linear unit."""
    return F.celu(inputs, call.attribute("alpha", 1.0))


def gelu(call: Call, inputs: Tensor) -> Tensor:
    """Gaussian error linear unit."""
    return F.gelu(inputs, approximate=call.attribute("approximate", "none"))


def hard_sigmoid(call: Call, inputs: Tensor) -> Tensor:
    """A line between 0 and 1."""
    found: Tensor = inputs * call.attribute("alpha", 0.2) + call.attribute("beta", 0.5)
    return found.clamp(0.0, 1.0)


def hard_swish(call: Call, inputs: Tensor) -> Tensor:
    """The input times a line between 0 and 1."""
    return inputs * (inputs / 6 + 0.5).clamp(0.0, 1.0)


def softmax(call: Call, inputs: Tensor) -> Tensor:
    """Softmax over one axis; before opset 13 over all from that axis on."""
    return _normalised(call, inputs, torch.softmax)


def log_softmax(call: Call, inputs: Tensor) -> Tensor:
    """Logarithm of softmax."""
    return _normalised(call, inputs, torch.log_softmax)


def _normalised(call: Call, inputs: Tensor, function: Callable[..., Tensor]) -> Tensor:
    axis = call.axis(call.attribute("axis", -1 if call.opset >= 13 else 1))
    if call.opset >= 13 or axis == len(call.shape) - 1:
        return function(inputs, axis)
    return function(inputs.flatten(axis), axis).reshape(inputs.shape)


def cast(call: Call, inputs: Tensor, like: Tensor | None = None) -> Tensor:
    """Another floating-point precision; none where the file changes none."""
    wanted: torch.dtype = call.attribute("to") if like is None else like.dtype
    return inputs if wanted == call.dtype else inputs.to(wanted)


def where(call: Call, condition: Tensor, left: Any, right: Any) -> Tensor:
    """One of two, by a constant."""
    return torch.where(condition, left, right)


def reduction(kind: str) -> Callable[..., Tensor]:
    """An operator that reduces axes: `mean`, `sum`, `amax`, `amin`, `norm` or `squares`."""
    return functools.partial(_reduced, kind)


def _reduced(kind: str, call: Call, inputs: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    axes = call.attribute("axes") if axes is None else axes
    if not axes:
        if call.attribute("noop_with_empty_axes"):
            return inputs
        axes = range(len(call.shape))
    chosen = sorted(call.axis(axis) for axis in axes)
    keep = bool(call.attribute("keepdims", 1))
    if len(call.shape) > 1 and chosen[0] == 0 and call.shape[0] == 1:  # the batch, of which a file sees one
        chosen = chosen[1:]
        if not chosen:
            return inputs if keep else inputs.squeeze(0) if call.batch == 1 else inputs
        if not keep:
            kept = _reduce(kind, inputs, chosen, True)
            sizes = [size for axis, size in enumerate(call.shape) if axis not in (0, *chosen)]
            return kept.reshape(sizes) if call.batch == 1 else kept.reshape(call.batch, *sizes)
    return _reduce(kind, inputs, chosen, keep)


def _reduce(kind: str, inputs: Tensor, axes: list[int], keep: bool) -> Tensor:
    if kind == "norm":
        return inputs.square().sum(axes, keepdim=keep).sqrt()
    if kind == "squares":
        return inputs.square().sum(axes, keepdim=keep)
    found: Tensor = getattr(inputs, kind)(axes, keepdim=keep)
    return found
