"""A smoother derivative for ReLU-like activations, in the backward pass only.

The forward pass stays exact. Backward, the 0/1 derivative of the ReLU becomes sigmoid(k·z/s): units that a
small step could switch on or off pass part of the gradient. s is the standard deviation of the layer's
pre-activations at the example's own clean input, so that no row depends on its neighbours.
Kin: Guo et al., Backpropagating linearly improves transferability, 2020 (LinBP); Zhang et al., 2021 (ConBP).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trustbound.errors import UnsupportedError

# Function → (slope below zero, upper limit) of the ReLU-like activations that models are written with.
_RELU: dict[Any, Callable[..., tuple[float, float | None]]] = {
    nn.functional.relu: lambda *_, **__: (0.0, None),
    nn.functional.relu_: lambda *_, **__: (0.0, None),
    torch.relu: lambda *_, **__: (0.0, None),
    torch.relu_: lambda *_, **__: (0.0, None),
    Tensor.relu: lambda *_, **__: (0.0, None),
    Tensor.relu_: lambda *_, **__: (0.0, None),
    torch.ops.aten.relu.default: lambda *_, **__: (0.0, None),
    torch.ops.aten.relu_.default: lambda *_, **__: (0.0, None),
    nn.functional.relu6: lambda *_, **__: (0.0, 6.0),
    nn.functional.leaky_relu: lambda _z, negative_slope=0.01, *_, **__: (negative_slope, None),
    nn.functional.leaky_relu_: lambda _z, negative_slope=0.01, *_, **__: (negative_slope, None),
    torch.ops.aten.leaky_relu.default: lambda _z, negative_slope=0.01, *_, **__: (negative_slope, None),
}
_IN_PLACE = {Tensor.relu_, torch.relu_, nn.functional.relu_, torch.ops.aten.relu_.default}


class _Smooth(torch.autograd.Function):
    """Exact forward; backward with slope + (1 − slope)·sigmoid(k z / s), mirrored at an upper limit."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, sharpness: Tensor, slope: float, limit: float | None) -> Tensor:
        ctx.save_for_backward(z, sharpness)
        ctx.slope, ctx.limit = slope, limit
        result = nn.functional.leaky_relu(z, slope) if slope else z.clamp(min=0.0)
        return result if limit is None else result.clamp_(max=limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        z, sharpness = ctx.saved_tensors
        gate = (z * sharpness).sigmoid_()
        if ctx.slope:
            gate.mul_(1.0 - ctx.slope).add_(ctx.slope)
        if ctx.limit is not None:
            gate.mul_(((ctx.limit - z) * sharpness).sigmoid_())
        return gate.mul_(gradients[0]), None, None, None


def _given(arguments: Any, keywords: Any) -> tuple[Any, dict[str, Any]]:
    """Arguments and keywords of a call, the tensor first, however it was passed."""
    named = dict(keywords or {})
    return (arguments if arguments else (named.pop("input"),)), named


def _by_row(z: Tensor, rows: int) -> Tensor:
    """A ReLU's input with its first axis checked: one entry for each of the model's inputs."""
    if z.dim() and z.shape[0] == rows:
        return z
    raise UnsupportedError(
        "smooth-pgd needs activations whose first axis is the batch; the model calls a ReLU on a tensor of shape "
        f"{tuple(z.shape)} for {rows} inputs, so that no row has a scale of its own (a sequence-first layer, or rows "
        "folded into the batch). Use margin-pgd, which takes the plain gradient."
    )


class _Listen(TorchFunctionMode):
    """Note the spread of each ReLU's input, row by row."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.spreads: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function in _RELU:
            z = _by_row(_given(arguments, keywords)[0][0].detach(), self.rows)
            self.spreads.append(z.reshape(self.rows, -1).std(dim=1, correction=0))
            with torch._C.DisableTorchFunction():  # F.relu calls torch.relu: count each activation once
                return function(*arguments, **(keywords or {}))
        return function(*arguments, **(keywords or {}))


class _Replace(TorchFunctionMode):
    """Send each ReLU through the smooth derivative."""

    def __init__(self, sharpness: Tensor) -> None:
        super().__init__()
        self.sharpness = sharpness  # (rows, layers)
        self.layer = 0

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function not in _RELU:
            return function(*arguments, **(keywords or {}))
        arguments, keywords = _given(arguments, keywords)
        z = _by_row(arguments[0], len(self.sharpness))
        slope, limit = _RELU[function](*arguments, **{k: v for k, v in keywords.items() if k != "inplace"})
        steepness = self.sharpness[:, self.layer % self.sharpness.shape[1]]
        self.layer += 1
        steepness = steepness.reshape(-1, *(1,) * (z.dim() - 1))
        with torch._C.DisableTorchFunction():
            if function in _IN_PLACE:
                return z.copy_(_Smooth.apply(z.clone(), steepness, slope, limit))  # type: ignore[no-untyped-call]
            return _Smooth.apply(z, steepness, slope, limit)  # type: ignore[no-untyped-call]


class SmoothBackward:
    """The smooth derivative for a batch: `sharpness` k and the rows' scales.

    Shapes      scales (R, L): one row an example, one column a ReLU in the order of the forward pass.

    >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> scales = measure_scales(net, torch.rand(3, 2), "net")
    >>> scales.shape
    torch.Size([3, 1])
    """

    def __init__(self, sharpness: float, scales: Tensor) -> None:
        self.sharpness = sharpness
        self.scales = scales

    def select(self, rows: Tensor) -> SmoothBackward:
        """The same for some of the rows."""
        return SmoothBackward(self.sharpness, self.scales[rows])

    @contextlib.contextmanager
    def on(self, rows: slice, count: int) -> Iterator[None]:
        """Smooth the backward pass of what runs inside, for some of the rows."""
        steepness = self.sharpness / self.scales[rows].clamp(min=1e-12)
        with _Replace(steepness):
            yield


def measure_scales(model: Callable[[Tensor], Tensor], inputs: Tensor, name: str) -> Tensor:
    """The spread of each ReLU's input at the clean inputs, (B, L); one forward of each.

    Raises      UnsupportedError when the model has no ReLU-like activation to smooth, or calls one on a tensor whose
                first axis is not the batch. Inputs are asked about in two parts of unequal size: an axis that is as
                long as one of them by chance is not as long as the other.
    """
    spreads = []
    for part in inputs.split(_unequal(len(inputs), 2 if _needs_company(model) else 1)):
        with torch.no_grad(), _Listen(len(part)) as listener:
            model(part)
        if not listener.spreads:
            raise UnsupportedError(
                f"smooth-pgd needs ReLU-like activations (ReLU, ReLU6, leaky ReLU); {name} has none. "
                "Use pgd or apgd, which take the plain gradient."
            )
        spreads.append(torch.stack(listener.spreads, dim=1))
    return torch.cat(spreads)


def _unequal(count: int, least: int) -> list[int]:
    """Two parts of at least so many, unequal but for the smallest counts; one where there are too few.

    >>> _unequal(1, 1), _unequal(2, 1), _unequal(6, 1), _unequal(4, 2), _unequal(7, 2)
    ([1], [1, 1], [2, 4], [2, 2], [3, 4])
    """
    first = max((count - 1) // 2, least)
    return [first, count - first] if count - first >= least else [count]


def _needs_company(model: object) -> bool:
    """Whether a batch of one may be refused: by a batch norm in train mode, say."""
    return isinstance(model, nn.Module) and any(
        part.training and isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()
    )
