"""The gradient function, compiled: one fused program for forward, loss and backward to the input.

A convolution's backward to its input is a transposed convolution. Said so, the compiler chooses its layout and fuses
what stands around it; left as it is, it calls the eager kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from trustbound.attacks.model_access.logit_scale import alive
from trustbound.metrics.losses import loss as loss_named

#: How full a batch must be to be filled up: the rest is work for nothing.
NEARLY = 0.8

GradientFunction = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class SurrogateLoss:
    """A named surrogate loss for labelled rows: what is climbed, as data, so that it can be compiled.

    Shapes      labels, targets (R,) int64; logit_scale (R,) powers of two, None for 1; called with outputs (r, C) of
                some rows, returns (r,): the loss of the logits at that scale, given back in their own. For a loss that
                grows with its logits, as the margin does, that is the loss itself, bit for bit. Where it saturates
                at that scale, its gradient is taken at a smaller one.
    """

    loss: str
    labels: Tensor
    targets: Tensor | None = None
    logit_scale: Tensor | None = None

    def __call__(self, outputs: Tensor, rows: slice) -> Tensor:
        """The loss of some rows."""
        function, labels = loss_named(self.loss), self.labels[rows]
        targets = None if self.targets is None else self.targets[rows]
        if self.logit_scale is None:
            return function(outputs, labels, targets)
        wide = outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
        logit_scale = self.logit_scale[rows].to(wide.dtype)

        def scaled(by: Tensor) -> Tensor:
            return function(wide * by.unsqueeze(1), labels, targets) / by

        kept = alive(logit_scale, wide)
        value = scaled(logit_scale)
        if torch.equal(kept, logit_scale):
            return value
        climbed = scaled(kept)
        return torch.where(kept == logit_scale, value, climbed + (value - climbed).detach())

    def select(self, rows: Tensor) -> SurrogateLoss:
        """The same loss for some of the rows."""
        return SurrogateLoss(
            self.loss,
            self.labels[rows],
            None if self.targets is None else self.targets[rows],
            None if self.logit_scale is None else self.logit_scale[rows],
        )


class CompiledGradients:
    """Compiled gradient functions of one model, one for each loss; each is built for one batch size.

    A batch that is nearly full is filled up with its own rows; smaller ones run uncompiled: a program for each of the
    sizes that an active set passes through would cost more than it saves. Compiling takes seconds, so it pays for long
    searches on full batches.

    >>> gradients = CompiledGradients(nn.Linear(2, 2), rows=4)
    >>> [gradients.serves(SurrogateLoss("ce", torch.zeros(4, dtype=torch.int64)), count) for count in (2, 4, 5)]
    [False, True, False]
    """

    def __init__(self, model: nn.Module, rows: int) -> None:
        self.model = model
        self.rows = rows
        self._programs: dict[tuple[str, bool], GradientFunction] = {}

    def serves(self, surrogate: object, count: int) -> bool:
        """Whether a compiled program fits."""
        return (
            isinstance(surrogate, SurrogateLoss)
            and surrogate.logit_scale is None
            and NEARLY * self.rows <= count <= self.rows
        )

    def __call__(self, points: Tensor, climb: SurrogateLoss, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient (R, *F), outputs (R, C) and loss (R,)."""
        labels = climb.labels[rows]
        targets = labels if climb.targets is None else climb.targets[rows]
        count = len(points)
        if count < self.rows:
            filled = torch.arange(self.rows, device=points.device) % count
            points, labels, targets = points[filled], labels[filled], targets[filled]
        key = (climb.loss, climb.targets is not None)
        if key not in self._programs:
            self._programs[key] = self._built(*key)
        slope, outputs, losses = self._programs[key](points, labels, targets)
        return (slope, outputs, losses) if count == self.rows else (slope[:count], outputs[:count], losses[:count])

    def _built(self, name: str, targeted: bool) -> GradientFunction:
        function, model = loss_named(name), self.model

        def gradient(points: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            def climbed(moving: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                outputs = model(moving)
                losses = function(outputs, labels, targets if targeted else None)
                return losses.sum(), (outputs, losses)

            slope, (outputs, losses) = torch.func.grad(climbed, has_aux=True)(points)
            return slope, outputs, losses

        return cast(GradientFunction, torch.compile(gradient, dynamic=False, backend=_backend()))


_PROGRAMS: WeakKeyDictionary[nn.Module, dict[int, CompiledGradients]] = WeakKeyDictionary()


def programs(model: nn.Module, rows: int) -> CompiledGradients:
    """The model's compiled gradient functions, kept as long as the model lives."""
    kept = _PROGRAMS.setdefault(model, {})
    if rows not in kept:
        kept[rows] = CompiledGradients(model, rows)
    return kept[rows]


def _backend() -> Any:
    """Inductor with the backward of convolutions taken apart; plain inductor where this torch has other insides."""
    try:
        from torch._functorch import config
        from torch._inductor.compile_fx import compile_fx
        from torch._inductor.decomposition import select_decomp_table
    except ImportError:
        return "inductor"

    def compiler(graph: Any, examples: Any) -> Any:
        parts = {**select_decomp_table(), torch.ops.aten.convolution_backward.default: _transposed}
        with config.patch(enable_autograd_cache=False):  # it does not know of our decomposition
            return compile_fx(graph, examples, decompositions=parts)

    return compiler


def _transposed(
    slope: Tensor,
    inputs: Tensor,
    weight: Tensor,
    bias_sizes: object,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> Any:
    """The backward of a convolution as a transposed convolution, where only its input's gradient is wanted."""
    if transposed or list(wanted) != [True, False, False]:
        return NotImplemented
    extra = [
        inputs.shape[axis + 2]
        - ((slope.shape[axis + 2] - 1) * step - 2 * padding[axis] + dilation[axis] * (weight.shape[axis + 2] - 1) + 1)
        for axis, step in enumerate(stride)
    ]
    convolved = torch.ops.aten.convolution.default(slope, weight, None, stride, padding, dilation, True, extra, groups)
    return convolved, None, None
