"""Intervals through the layers of a network in training, differentiable in its weights.

What is bounded here is the loss of a training step, fast and in the network's own precision. It is no proof: proofs
are the certifiers', which read the finished network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from trustbound.errors import UnsupportedError
from trustbound.model.wrapping import Model

Pair = tuple[Tensor, Tensor]

#: Layers that never decrease: both limits go through.
_MONOTONE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.Softplus,
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardtanh,
    nn.Flatten,
    nn.Identity,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)
_CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def layers_of(model: Model) -> list[tuple[str, nn.Module]]:
    """The layers of a sequence of layers, in order, with their paths.

    Raises      UnsupportedError naming the first part that has no interval.

    >>> from trustbound.model.wrapping import wrap
    >>> [path for path, _ in layers_of(wrap(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 2), nn.ReLU()))))]
    ['0', '1.0', '1.1']
    """
    return list(_flat("", model.module))


def _flat(path: str, part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if type(part) is nn.Sequential:
        for name, inner in part.named_children():
            yield from _flat(f"{path}.{name}" if path else name, inner)
        return
    served = (nn.Linear, nn.Dropout, nn.Dropout2d, *_CONVOLUTIONS, *_NORMS, *_MONOTONE)
    if type(part) not in served or getattr(part, "padding_mode", "zeros") != "zeros":
        raise UnsupportedError(
            f"no intervals in training: {path or 'the module'} ({type(part).__name__}). Sequences of linear layers, "
            "convolutions, batch norm, dropout, monotone activations, pools and Flatten have them."
        )
    yield path, part


@contextlib.contextmanager
def batch_statistics(layers: list[tuple[str, nn.Module]]) -> Iterator[dict[nn.Module, Pair]]:
    """Mean and variance, with their gradients, by which each batch norm in train mode normalises what it sees."""
    seen: dict[nn.Module, Pair] = {}

    def looked(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if module.training:
            axes = [axis for axis in range(given[0].dim()) if axis != 1]
            seen[module] = given[0].mean(axes), given[0].var(axes, unbiased=False)

    handles = [layer.register_forward_pre_hook(looked) for _, layer in layers if isinstance(layer, _NORMS)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def through(layer: nn.Module, low: Tensor, high: Tensor, seen: dict[nn.Module, Pair]) -> Pair:
    """The limits behind one layer; `seen` holds what its batch norms normalise by.

    >>> import torch
    >>> low, high = through(nn.ReLU(), torch.tensor([[-1.0, 1.0]]), torch.tensor([[0.5, 2.0]]), {})
    >>> low, high
    (tensor([[0., 1.]]), tensor([[0.5000, 2.0000]]))
    """
    if isinstance(layer, nn.Dropout | nn.Dropout2d):
        return low, high
    if isinstance(layer, _MONOTONE):
        # A copy: layers that work in place would write the limits of the layer before.
        return layer(low.clone()), layer(high.clone())
    middle, reach = (low + high) / 2, (high - low) / 2
    if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        middle = linear_part(layer, layer.weight, middle, layer.bias)
        reach = linear_part(layer, layer.weight.abs(), reach)
    else:
        assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
        scale, shift = scale_and_shift(layer, seen)
        shape = (1, -1, *(1,) * (middle.dim() - 2))
        middle, reach = middle * scale.reshape(shape) + shift.reshape(shape), reach * scale.abs().reshape(shape)
    return middle - reach, middle + reach


def scale_and_shift(layer: nn.BatchNorm1d | nn.BatchNorm2d, seen: dict[nn.Module, Pair]) -> Pair:
    """What a batch norm multiplies each channel by, and what it adds then: (channels,) both.

    >>> import torch
    >>> scale, shift = scale_and_shift(nn.BatchNorm1d(2, eps=0.0), {})
    >>> scale.tolist(), shift.tolist()
    ([1.0, 1.0], [0.0, 0.0])
    """
    mean, variance = seen[layer] if layer in seen else (layer.running_mean, layer.running_var)
    assert mean is not None
    assert variance is not None
    scale = (variance + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    return scale, -mean * scale if layer.bias is None else layer.bias - mean * scale


def linear_part(layer: nn.Module, weight: Tensor, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
    """What a linear layer or convolution makes of inputs, with a weight and a bias in place of its own."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight, bias)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    convolve = _CONVOLUTIONS[nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d]
    return convolve(inputs, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
