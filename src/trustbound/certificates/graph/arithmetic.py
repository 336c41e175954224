"""Arithmetic with constants, sums of two values, and limits: how each is written as steps of the list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from trustbound.certificates.graph.operations import Activation, Scale, Sum
from trustbound.certificates.graph.places import Arguments, Place, constant_only, depends

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator


def clamp(translator: Translator, given: Arguments) -> Place:
    """Write limits as ReLUs: low + relu(x − low), then high − relu(high − ·)."""
    constant_only(translator, given, "min", "max", "min_val", "max_val")
    low, high = given.get("min", given.get("min_val")), given.get("max", given.get("max_val"))
    place = given["self"]
    if low is not None:
        place = place if _zero(low) else _affine(translator, place, 1.0, low, -1)
        place = translator.add(Activation, place)
        place = place if _zero(low) else _affine(translator, place, 1.0, low)
    if high is not None:
        place = translator.add(Activation, _affine(translator, place, -1.0, high))
        place = _affine(translator, place, -1.0, high)
    return place  # type: ignore[no-any-return]


def _zero(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == 0


def _affine(translator: Translator, place: int, factor: Any, shift: Any, sign: float = 1) -> Place:
    """Append factor · x + sign · shift."""
    shape = translator.shape
    scale = translator.constant(factor, shape)
    bias = None if shift is None else translator.constant(shift, shape) * sign
    if translator.extent(place) != shape:
        raise translator.refusal("a constant that widens the features")
    size = None if bias is None else bias.abs()
    return translator.add(Scale, place, scale=scale, bias=bias, bias_size=size)


def add(translator: Translator, given: Arguments, sign: float = 1) -> Place:
    """Write a sum: of two places, or of one and a constant."""
    left, right, factor = given["self"], given["other"], sign * given["alpha"]
    if isinstance(left, Place) and isinstance(right, Place):
        if translator.extent(left) != translator.extent(right):
            raise translator.refusal("a sum that broadcasts between features")
        return translator.add(Sum, left, right, signs=(1.0, float(factor)))
    if isinstance(left, Place):
        return _affine(translator, left, 1.0, right, factor)
    return _affine(translator, right, factor, left)


def subtract(translator: Translator, given: Arguments) -> Place:
    """Write a difference."""
    return add(translator, given, -1)


def reversed_subtract(translator: Translator, given: Arguments) -> Place:
    """Write other − self."""
    return subtract(translator, {**given, "self": given["other"], "other": given["self"]})


def multiply(translator: Translator, given: Arguments) -> Place:
    """Write a product with a constant."""
    left, right = given["self"], given["other"]
    if isinstance(left, Place) and isinstance(right, Place):
        raise translator.refusal("a product of two values that depend on the input")
    place, factor = (left, right) if isinstance(left, Place) else (right, left)
    return _affine(translator, place, factor, None)


def divide(translator: Translator, given: Arguments) -> Place:
    """Write a quotient by a constant."""
    if not isinstance(given["self"], Place) or depends(given["other"]) or given.get("rounding_mode"):
        raise translator.refusal("a quotient by a value that depends on the input, or rounded")
    divisor = translator.constant(given["other"], translator.shape)
    return _affine(translator, given["self"], 1 / divisor, None)


def negate(translator: Translator, given: Arguments) -> Place:
    """Write −x."""
    return _affine(translator, given["self"], -1.0, None)
