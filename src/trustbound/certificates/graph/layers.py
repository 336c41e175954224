"""The table of layers that have a proof: for each exported operation, the steps that it is written as."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from trustbound.certificates.graph import arithmetic
from trustbound.certificates.graph.mixing import Convolution, Dense, Mean
from trustbound.certificates.graph.operations import Activation, Arrange, Concatenate, MaxPool, Scale
from trustbound.certificates.graph.places import Arguments, Place, constant_only, depends

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator


def _pair(value: Any, count: int) -> tuple[int, ...]:
    """Return one number per spatial axis."""
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(int(number) for number in (numbers * count if len(numbers) == 1 else numbers))


def _linear(translator: Translator, given: Arguments) -> Place:
    constant_only(translator, given, "weight", "bias")
    return _dense(translator, given["input"], given["weight"], given["bias"])


def _dense(translator: Translator, place: Any, weight: Any, bias: Any) -> Place:
    if not isinstance(place, Place) or weight.ndim != 2:
        raise translator.refusal("a product that is not inputs × matrix")
    shift = None if bias is None else bias.double().reshape(-1).expand(len(weight))
    size = None if shift is None else shift.abs()
    return translator.add(Dense, place, weight=weight.double(), bias=shift, bias_size=size)


def _product(translator: Translator, given: Arguments) -> Place:
    left: Any = given["self"]
    right: Any = given.get("other", given.get("mat2"))
    if depends(right):
        raise translator.refusal("a product of two values that depend on the input")
    return _dense(translator, left, right.mT, None)


def _addmm(translator: Translator, given: Arguments) -> Place:
    constant_only(translator, given, "self", "mat2")
    if given["alpha"] != 1 or given["beta"] != 1:
        raise translator.refusal("alpha or beta other than 1")
    return _dense(translator, given["mat1"], given["mat2"].mT, given["self"])


def _convolution(translator: Translator, given: Arguments) -> Place:
    constant_only(translator, given, "weight", "bias")
    weight, place = given["weight"].double(), given["input"]
    count = weight.ndim - 2
    if given.get("transposed"):
        raise translator.refusal("a transposed convolution")
    dilation, padding = _pair(given["dilation"], count), given["padding"]
    if isinstance(padding, str):
        whole = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(total % 2 for total in whole):
            raise translator.refusal("'same' padding that is not symmetric; use an odd kernel")
        padding = [total // 2 for total in whole]
    bias = None if given["bias"] is None else given["bias"].double().reshape(-1, *[1] * count)
    return translator.add(
        Convolution,
        place,
        weight=weight,
        bias=bias,
        bias_size=None if bias is None else bias.abs(),
        stride=_pair(given["stride"], count),
        padding=_pair(padding, count),
        dilation=dilation,
        groups=given["groups"],
        extent=translator.extent(place),
    )


def _batch_norm(translator: Translator, given: Arguments) -> Place:
    if given["training"] or given["running_mean"] is None:
        raise translator.refusal("statistics of the batch; call model.eval() and keep running statistics")
    constant_only(translator, given, "weight", "bias", "running_mean", "running_var")
    shape = translator.shape
    mean, deviation = given["running_mean"].double(), (given["running_var"].double() + given["eps"]).sqrt()
    factor = 1 / deviation if given["weight"] is None else given["weight"].double() / deviation
    shift = torch.zeros_like(mean) if given["bias"] is None else given["bias"].double()
    per_channel = (-1, *[1] * (len(shape) - 1))
    return translator.add(
        Scale,
        given["input"],
        scale=factor.reshape(per_channel),
        bias=(shift - mean * factor).reshape(per_channel),
        bias_size=(shift.abs() + (mean * factor).abs()).reshape(per_channel),
    )


def _relu(translator: Translator, given: Arguments) -> Place:
    return translator.add(Activation, given["self"])


def _leaky(translator: Translator, given: Arguments) -> Place:
    slope = float(given["negative_slope"])
    if not 0 <= slope <= 1:
        raise translator.refusal(f"a negative slope of {slope} outside [0, 1]")
    return translator.add(Activation, given["self"], slope=slope)


def _average_pool(translator: Translator, given: Arguments) -> Place:
    """Write the pool as a convolution of each channel alone; short windows at the edge get a larger factor."""
    place = given["self"]
    extent, shape = translator.extent(place), translator.shape
    kernel = _pair(given["kernel_size"], 2)
    stride, padding = _pair(given["stride"] or kernel, 2), _pair(given["padding"], 2)
    return _average(translator, place, extent, shape, kernel, stride, padding, given)


def _average(
    translator: Translator,
    place: int,
    extent: tuple[int, ...],
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    given: Arguments,
) -> Place:
    plain = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(extent[1:], padding, kernel, stride, strict=True)]
    if list(shape[1:]) != plain:
        raise translator.refusal("ceil_mode with an incomplete window; pad instead")
    divisor = given.get("divisor_override") or math.prod(kernel)
    device = translator.device
    weight = torch.full((extent[0], 1, *kernel), 1 / divisor, dtype=torch.float64, device=device)
    numbers: Arguments = {"stride": stride, "padding": padding, "dilation": (1, 1), "groups": extent[0]}
    pooled = translator.add(Convolution, place, weight=weight, extent=extent, peak=float(math.prod(kernel)), **numbers)
    if any(padding) and not given.get("count_include_pad", True) and not given.get("divisor_override"):
        ones = torch.ones((1, 1, *extent[1:]), dtype=torch.float64, device=device)
        counted = torch.nn.functional.conv2d(ones, torch.ones_like(weight[:1]), None, stride, padding)
        return translator.add(Scale, pooled, scale=math.prod(kernel) / counted[0])
    return pooled


def _adaptive_average(translator: Translator, given: Arguments) -> Place:
    place = given["self"]
    extent, shape = translator.extent(place), translator.shape
    if all(size == 1 for size in shape[1:]):
        return translator.add(Mean, place, axes=tuple(range(2, len(extent) + 1)), extent=extent)
    if len(extent) != 3 or any(n % m for n, m in zip(extent[1:], shape[1:], strict=True)):
        raise translator.refusal(f"windows of unequal size, {extent[1:]} to {shape[1:]}")
    kernel = tuple(n // m for n, m in zip(extent[1:], shape[1:], strict=True))
    return _average(translator, place, extent, shape, kernel, kernel, (0, 0), {})


def _mean(translator: Translator, given: Arguments) -> Place:
    place = given["self"]
    extent = translator.extent(place)
    axes = given.get("dim")
    axes = range(len(extent) + 1) if not axes else axes
    axes = tuple(sorted(axis % (len(extent) + 1) for axis in axes))
    if 0 in axes or given.get("dtype") not in (None, torch.float64):
        raise translator.refusal("a mean over the batch, or in another precision")
    kept = tuple(1 if axis + 1 in axes else size for axis, size in enumerate(extent))
    place = translator.add(Mean, place, shape=kept, axes=axes, extent=extent)
    return translator.add(Arrange, place, extent=kept) if translator.shape != kept else place


def _max_pool(translator: Translator, given: Arguments) -> Place:
    kernel = _pair(given["kernel_size"], 2)
    return translator.add(
        MaxPool,
        given["self"],
        kernel=kernel,
        stride=_pair(given["stride"] or kernel, 2),
        padding=_pair(given["padding"], 2),
        dilation=_pair(given["dilation"], 2),
        ceil=bool(given["ceil_mode"]),
    )


def _reshape(translator: Translator, given: Arguments) -> Place:
    place = given.get("self", given.get("input"))
    extent = translator.extent(place)  # type: ignore[arg-type]
    if extent == translator.shape:
        return place  # type: ignore[return-value]
    return translator.add(Arrange, place, extent=extent)  # type: ignore[arg-type]


def _permute(translator: Translator, given: Arguments) -> Place:
    place = given["self"]
    extent = translator.extent(place)
    count = len(extent) + 1
    if "dims" in given:
        axes = [axis % count for axis in given["dims"]]
    else:
        axes = list(range(count))
        first, second = given["dim0"] % count, given["dim1"] % count
        axes[first], axes[second] = axes[second], axes[first]
    if axes[0] != 0:
        raise translator.refusal("the batch axis is moved")
    return translator.add(Arrange, place, extent=extent, axes=tuple(axes))


def _concatenate(translator: Translator, given: Arguments) -> Place:
    parts = given["tensors"]
    axis = given["dim"] % (len(translator.shape) + 1)
    if axis == 0 or not all(isinstance(part, Place) for part in parts):
        raise translator.refusal("parts that are constant, or laid along the batch")
    lengths = tuple(translator.extent(part)[axis - 1] for part in parts)
    return translator.add(Concatenate, *parts, axis=axis, lengths=lengths)


def _dropout(translator: Translator, given: Arguments) -> Place:
    if given["train"] and given["p"] > 0:
        raise translator.refusal("dropout in training mode; call model.eval()")
    return given["input"]  # type: ignore[no-any-return]


def _identity(translator: Translator, given: Arguments) -> Place:
    if given.get("dtype") not in (None, torch.float64):
        raise translator.refusal(f"a change of precision to {given['dtype']}")
    return given.get("self", given.get("input"))  # type: ignore[return-value]


NOTHING = {"_assert_tensor_metadata", "_assert_async", "sym_constrain_range_for_size"}
TABLE: dict[str, Callable[[Translator, Arguments], Place]] = {
    "linear": _linear,
    "matmul": _product,
    "mm": _product,
    "addmm": _addmm,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    "batch_norm": _batch_norm,
    "relu": _relu,
    "leaky_relu": _leaky,
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "hardtanh"), arithmetic.clamp),
    "relu6": lambda translator, given: arithmetic.clamp(translator, {**given, "min": 0.0, "max": 6.0}),
    "add": arithmetic.add,
    "sub": arithmetic.subtract,
    "rsub": arithmetic.reversed_subtract,
    "mul": arithmetic.multiply,
    "div": arithmetic.divide,
    "neg": arithmetic.negate,
    "avg_pool2d": _average_pool,
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _adaptive_average),
    "mean": _mean,
    "max_pool2d": _max_pool,
    **dict.fromkeys(("flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("permute", "transpose"), _permute),
    "cat": _concatenate,
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
    **dict.fromkeys(("to", "contiguous", "clone", "alias", "detach", "detach_", "_to_copy"), _identity),
}
