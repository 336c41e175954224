"""The table of layers that have a proof: for each exported operation, the steps that it is written as."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from trustbound.certificates.graph import arithmetic
from trustbound.certificates.graph.attention import attention
from trustbound.certificates.graph.curves import (
    COSINE,
    ELU,
    GELU,
    GELU_TANH,
    SIGMOID,
    SILU,
    SINE,
    TANH,
    Curve,
    Smooth,
    softplus,
)
from trustbound.certificates.graph.data_movement import move
from trustbound.certificates.graph.gathering import Gather
from trustbound.certificates.graph.matrix_operations import Convolution, Dense, Mean
from trustbound.certificates.graph.moved_batch import permuted, reshaped
from trustbound.certificates.graph.node_index import Arguments, NodeIndex, constant_only, depends, pair
from trustbound.certificates.graph.normalisation import NORMALISATIONS
from trustbound.certificates.graph.operations import Activation, Arrange, Concatenate, LogSoftmax, MaxPool, Scale
from trustbound.certificates.graph.products import matrix_product, power
from trustbound.certificates.graph.resampling import upsample_bilinear
from trustbound.certificates.graph.transposed_convolution import transposed_convolution

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator


def _linear(translator: Translator, given: Arguments) -> NodeIndex:
    constant_only(translator, given, "weight", "bias")
    return _dense(translator, given["input"], given["weight"], given["bias"])


def _dense(translator: Translator, index: Any, weight: Any, bias: Any) -> NodeIndex:
    if not isinstance(index, NodeIndex) or depends(weight) or weight.ndim != 2:
        raise translator.refusal("a product that is not inputs × matrix")
    shift = None if bias is None else bias.double().reshape(-1).expand(len(weight))
    size = None if shift is None else shift.abs()
    return translator.add(Dense, index, weight=weight.double(), bias=shift, bias_size=size)


def _product(translator: Translator, given: Arguments) -> NodeIndex:
    left: Any = given["self"]
    right: Any = given.get("other", given.get("mat2"))
    if depends(right) and depends(left):
        return matrix_product(translator, left, right)
    if depends(right):
        raise translator.refusal("a matrix × inputs")
    if right.ndim != 2:
        raise translator.refusal("a product that is not inputs × matrix")
    return _dense(translator, left, right.mT, None)


def _addmm(translator: Translator, given: Arguments) -> NodeIndex:
    constant_only(translator, given, "self", "mat2")
    if given["alpha"] != 1 or given["beta"] != 1:
        raise translator.refusal("alpha or beta other than 1")
    return _dense(translator, given["mat1"], given["mat2"].mT, given["self"])


def _convolution(translator: Translator, given: Arguments) -> NodeIndex:
    if given.get("transposed"):
        return transposed_convolution(translator, given)
    constant_only(translator, given, "weight", "bias")
    weight, index = given["weight"].double(), given["input"]
    count = weight.ndim - 2
    dilation, padding = pair(given["dilation"], count), given["padding"]
    if isinstance(padding, str):
        whole = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(total % 2 for total in whole):
            raise translator.refusal("'same' padding that is not symmetric; use an odd kernel")
        padding = [total // 2 for total in whole]
    bias = None if given["bias"] is None else given["bias"].double().reshape(-1, *[1] * count)
    return translator.add(
        Convolution,
        index,
        weight=weight,
        bias=bias,
        bias_size=None if bias is None else bias.abs(),
        stride=pair(given["stride"], count),
        padding=pair(padding, count),
        dilation=dilation,
        groups=given["groups"],
        extent=translator.extent(index),
    )


def _batch_norm(translator: Translator, given: Arguments) -> NodeIndex:
    if given.get("training") or given["running_mean"] is None:
        _batch_statistics(translator, given)
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


def _batch_statistics(translator: Translator, given: Arguments) -> NodeIndex:
    raise translator.refusal("statistics of the batch; call model.eval() and keep running statistics")


def _normalise(translator: Translator, given: Arguments) -> tuple[Any, ...]:
    """Write the batch norm that functional programs hold: the first of its values is the result."""
    return (_batch_norm(translator, given), None, None, None, None)


def _relu(translator: Translator, given: Arguments) -> NodeIndex:
    return translator.add(Activation, given["self"])


def _leaky(translator: Translator, given: Arguments) -> NodeIndex:
    slope = float(given["negative_slope"])
    if not 0 <= slope <= 1:
        raise translator.refusal(f"a negative slope of {slope} outside [0, 1]")
    return translator.add(Activation, given["self"], slope=slope)


def _smooth(curve: Curve) -> Callable[[Translator, Arguments], NodeIndex]:
    """Return the rule of an activation without parameters."""
    return lambda translator, given: translator.add(Smooth, given["self"], curve=curve)


def _gelu(translator: Translator, given: Arguments) -> NodeIndex:
    return translator.add(Smooth, given["self"], curve=GELU_TANH if given["approximate"] == "tanh" else GELU)


def _elu(translator: Translator, given: Arguments) -> NodeIndex:
    if (given["alpha"], given["scale"], given["input_scale"]) != (1, 1, 1):
        raise translator.refusal("with a bend at zero; use alpha = 1")
    return translator.add(Smooth, given["self"], curve=ELU)


def _softplus(translator: Translator, given: Arguments) -> NodeIndex:
    curve = softplus(float(given["beta"]), float(given["threshold"]))
    if curve is None:
        numbers = f"beta {given['beta']} and threshold {given['threshold']}"
        raise translator.refusal(f"with {numbers}; beta > 0.7 and thresholds up to 80 are read")
    return translator.add(Smooth, given["self"], curve=curve)


def _log_softmax(translator: Translator, given: Arguments) -> NodeIndex:
    if len(translator.shape) != 1 or given["dim"] % 2 != 1:
        raise translator.refusal("over another axis than the classes of logits (B, C)")
    return translator.add(LogSoftmax, translator.cast(given["self"]))


def _planes(translator: Translator, index: Any, count: int) -> tuple[NodeIndex, tuple[int, ...]]:
    """Return what is pooled over its last `count` axes, with an axis of channels, and the shape of the result.

    torch takes a batch without channels for one example whose channels are the batch: each is pooled by itself.
    """
    extent, shape = translator.extent(index), translator.shape
    if len(extent) == count + 1:
        return index, shape
    if len(extent) != count:
        raise translator.refusal(f"a pool over {count} axes of a value of shape (B, {', '.join(map(str, extent))})")
    own = translator.operations[index].dtype
    return translator.add(Arrange, index, shape=(1, *extent), extent=extent, dtype=own), (1, *shape)


def _pooled(translator: Translator, index: NodeIndex, shape: tuple[int, ...]) -> NodeIndex:
    """Take the axis of channels away again that `_planes` laid on."""
    return index if shape == translator.shape else translator.add(Arrange, index, extent=shape)


def _average_pool(translator: Translator, given: Arguments) -> NodeIndex:
    """Write the pool as a convolution of each channel alone; short windows at the edge get a larger factor."""
    index, shape = _planes(translator, given["self"], 2)
    kernel = pair(given["kernel_size"], 2)
    stride, padding = pair(given["stride"] or kernel, 2), pair(given["padding"], 2)
    return _pooled(translator, _average(translator, index, shape, kernel, stride, padding, given), shape)


def _average(
    translator: Translator,
    index: NodeIndex,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    given: Arguments,
) -> NodeIndex:
    extent = translator.extent(index)
    plain = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(extent[1:], padding, kernel, stride, strict=True)]
    if list(shape[1:]) != plain:
        raise translator.refusal("ceil_mode with an incomplete window; pad instead")
    divisor = given.get("divisor_override") or math.prod(kernel)
    device = translator.device
    weight = torch.full((extent[0], 1, *kernel), 1 / divisor, dtype=torch.float64, device=device)
    constants: Arguments = {"stride": stride, "padding": padding, "dilation": (1, 1), "groups": extent[0]}
    constants |= {"shape": shape, "extent": extent, "peak": float(math.prod(kernel))}
    pooled = translator.add(Convolution, index, weight=weight, **constants)
    if any(padding) and not given.get("count_include_pad", True) and not given.get("divisor_override"):
        ones = torch.ones((1, 1, *extent[1:]), dtype=torch.float64, device=device)
        counted = torch.nn.functional.conv2d(ones, torch.ones_like(weight[:1]), None, stride, padding)
        return translator.add(Scale, pooled, shape=shape, scale=math.prod(kernel) / counted[0])
    return pooled


def _adaptive_average(translator: Translator, given: Arguments) -> NodeIndex:
    index, shape = _planes(translator, given["self"], len(given["output_size"]))
    extent = translator.extent(index)
    if all(size == 1 for size in shape[1:]):
        found = translator.add(Mean, index, shape=shape, axes=tuple(range(2, len(extent) + 1)), extent=extent)
        return _pooled(translator, found, shape)
    if len(extent) != 3 or any(n % m for n, m in zip(extent[1:], shape[1:], strict=True)):
        raise translator.refusal(f"windows of unequal size, {extent[1:]} to {shape[1:]}")
    kernel = tuple(n // m for n, m in zip(extent[1:], shape[1:], strict=True))
    return _pooled(translator, _average(translator, index, shape, kernel, kernel, (0, 0), {}), shape)


def _mean(translator: Translator, given: Arguments) -> NodeIndex:
    return _averaged(translator, given)


def _sum(translator: Translator, given: Arguments) -> NodeIndex:
    """Write a sum as the mean times how many numbers it is of."""
    index = _averaged(translator, given)
    before = translator.extent(given["self"])
    count = float(math.prod(before) / math.prod(translator.shape))
    scale = torch.tensor(count, dtype=torch.float64, device=translator.device)
    return translator.add(Scale, index, scale=scale)


def _averaged(translator: Translator, given: Arguments) -> NodeIndex:
    # A result in another precision is summed in that precision.
    index = translator.cast(given["self"])
    extent = translator.extent(index)
    axes = given.get("dim")
    axes = [axes] if isinstance(axes, int) else axes
    axes = range(len(extent) + 1) if not axes else axes
    axes = tuple(sorted(axis % (len(extent) + 1) for axis in axes))
    if 0 in axes:
        raise translator.refusal("a mean or sum over the batch")
    kept = tuple(1 if axis + 1 in axes else size for axis, size in enumerate(extent))
    index = translator.add(Mean, index, shape=kept, axes=axes, extent=extent)
    return translator.add(Arrange, index, extent=kept) if translator.shape != kept else index


def _max_pool(translator: Translator, given: Arguments) -> NodeIndex:
    index, shape = _planes(translator, given["self"], 2)
    kernel = pair(given["kernel_size"], 2)
    found = translator.add(
        MaxPool,
        index,
        shape=shape,
        kernel=kernel,
        stride=pair(given["stride"] or kernel, 2),
        padding=pair(given["padding"], 2),
        dilation=pair(given["dilation"], 2),
        ceil=bool(given["ceil_mode"]),
    )
    return _pooled(translator, found, shape)


def _max_pool_with_indices(translator: Translator, given: Arguments) -> tuple[Any, ...]:
    return (_max_pool(translator, given), None)


def _reshape(translator: Translator, given: Arguments) -> Any:
    index = given.get("self", given.get("input"))
    if not translator.batched:
        return reshaped(translator, index)
    if isinstance(translator.operations[index], Gather):  # type: ignore[index]
        return move(translator, translator.target, given)
    extent = translator.extent(index)  # type: ignore[arg-type]
    if extent == translator.shape:
        return index
    return translator.add(Arrange, index, extent=extent)  # type: ignore[arg-type]


def _permute(translator: Translator, given: Arguments) -> Any:
    index = given["self"]
    extent = translator.extent(index)
    count = len(extent) + 1
    if "dims" in given:
        axes = [axis % count for axis in given["dims"]]
    else:
        axes = list(range(count))
        first, second = given["dim0"] % count, given["dim1"] % count
        axes[first], axes[second] = axes[second], axes[first]
    if axes[0] != 0:
        return permuted(translator, index, axes)
    return translator.add(Arrange, index, extent=extent, axes=tuple(axes))


def _concatenate(translator: Translator, given: Arguments) -> Any:
    parts = given["tensors"]
    axis = given["dim"] % (len(translator.shape) + 1)
    if axis == 0:
        raise translator.refusal("parts that are laid along the batch")
    if not all(isinstance(part, NodeIndex) and not isinstance(translator.operations[part], Gather) for part in parts):
        return move(translator, translator.target, given)
    parts = [translator.cast(part) for part in parts]
    lengths = tuple(translator.extent(part)[axis - 1] for part in parts)
    return translator.add(Concatenate, *parts, axis=axis, lengths=lengths)


def _dropout(translator: Translator, given: Arguments) -> NodeIndex:
    if given["train"] and given["p"] > 0:
        raise translator.refusal("dropout in training mode; call model.eval()")
    return given["input"]  # type: ignore[no-any-return]


def _identity(translator: Translator, given: Arguments) -> NodeIndex:
    """Write a copy; in another precision it is a step of its own."""
    return translator.cast(given.get("self", given.get("input")))  # type: ignore[arg-type]


NOTHING = {"_assert_tensor_metadata", "_assert_async", "_assert_scalar"}
NOTHING |= {"sym_constrain_range_for_size", "sym_constrain_range"}
_TRAINING = ("_native_batch_norm_legit", "_native_batch_norm_legit_functional", "native_batch_norm")
TABLE: dict[str, Callable[[Translator, Arguments], Any]] = {
    "linear": _linear,
    "matmul": _product,
    **dict.fromkeys(("mm", "bmm"), _product),
    "addmm": _addmm,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed_convolution),
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _normalise,
    **dict.fromkeys(_TRAINING, _batch_statistics),
    "relu": _relu,
    "leaky_relu": _leaky,
    "sigmoid": _smooth(SIGMOID),
    "tanh": _smooth(TANH),
    "sin": _smooth(SINE),
    "cos": _smooth(COSINE),
    "silu": _smooth(SILU),
    "gelu": _gelu,
    "elu": _elu,
    "softplus": _softplus,
    "abs": arithmetic.absolute,
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "hardtanh"), arithmetic.clamp),
    "relu6": lambda translator, given: arithmetic.clamp(translator, {**given, "min": 0.0, "max": 6.0}),
    **dict.fromkeys(("pow", "square"), power),
    "scaled_dot_product_attention": attention,
    **NORMALISATIONS,
    "hardsigmoid": arithmetic.hard_sigmoid,
    "hardswish": arithmetic.hard_swish,
    "add": arithmetic.add,
    "sub": arithmetic.subtract,
    "rsub": arithmetic.reversed_subtract,
    "mul": arithmetic.multiply,
    "div": arithmetic.divide,
    "maximum": arithmetic.maximum,
    "minimum": arithmetic.minimum,
    "neg": arithmetic.negate,
    **dict.fromkeys(("log_softmax", "_log_softmax"), _log_softmax),
    "avg_pool2d": _average_pool,
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _adaptive_average),
    "upsample_bilinear2d": upsample_bilinear,
    "mean": _mean,
    "sum": _sum,
    "max_pool2d": _max_pool,
    "max_pool2d_with_indices": _max_pool_with_indices,
    **dict.fromkeys(("flatten", "unflatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("permute", "transpose"), _permute),
    "cat": _concatenate,
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
    **dict.fromkeys(("to", "type_as", "contiguous", "clone", "alias", "detach", "_to_copy"), _identity),
}
