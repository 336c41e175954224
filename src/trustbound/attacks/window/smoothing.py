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


class _Listen(TorchFunctionMode):
    """Note the spread of each ReLU's input, row by row."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.spreads: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function in _RELU:
            z = arguments[0].detach()
            by_row = z.reshape(self.rows, -1) if z.shape[0] % self.rows == 0 else z.reshape(1, -1)
            self.spreads.append(by_row.std(dim=1, correction=0).expand(self.rows))
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
        z = arguments[0]
        slope, limit = _RELU[function](*arguments, **{k: v for k, v in (keywords or {}).items() if k != "inplace"})
        steepness = self.sharpness[:, self.layer % self.sharpness.shape[1]]
        self.layer += 1
        rows = len(steepness)
        if z.shape[0] != rows:
            whole = z.shape[0] % rows == 0
            steepness = (
                steepness.repeat_interleave(z.shape[0] // rows) if whole else steepness.mean().expand(z.shape[0])
            )
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
    """The spread of each ReLU's input at the clean inputs, (B, L); one forward.

    Raises      UnsupportedError when the model has no ReLU-like activation to smooth.
    """
    with torch.no_grad(), _Listen(len(inputs)) as listener:
        model(inputs)
    if not listener.spreads:
        raise UnsupportedError(
            f"smooth-pgd needs ReLU-like activations (ReLU, ReLU6, leaky ReLU); {name} has none. "
            "Use pgd or apgd, which take the plain gradient."
        )
    return torch.stack(listener.spreads, dim=1)
