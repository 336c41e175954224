"""The gradient function, compiled: one fused program for forward, loss and backward to the input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from trustbound.measure.losses import loss as loss_named

GradientFunction = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Climb:
    """A named loss for labelled rows: what is climbed, as data, so that it can be compiled.

    Shapes      labels, targets (R,) int64; called with outputs (r, C) of some rows, returns (r,).
    """

    loss: str
    labels: Tensor
    targets: Tensor | None = None

    def __call__(self, outputs: Tensor, rows: slice) -> Tensor:
        """The loss of some rows."""
        targets = None if self.targets is None else self.targets[rows]
        return loss_named(self.loss)(outputs, self.labels[rows], targets)


class CompiledGradients:
    """Compiled gradient functions of one model, one for each loss; each is built for one batch size.

    Smaller batches run uncompiled: a program for each of the sizes that an active set passes through would cost
    more than it saves. Compiling takes seconds, so it pays for long searches on full batches.

    >>> gradients = CompiledGradients(nn.Linear(2, 2), rows=4)
    >>> gradients.serves(Climb("ce", torch.zeros(3, dtype=torch.int64)), 3)
    False
    """

    def __init__(self, model: nn.Module, rows: int) -> None:
        self.model = model
        self.rows = rows
        self._programs: dict[tuple[str, bool], GradientFunction] = {}

    def serves(self, surrogate: object, count: int) -> bool:
        """Whether a compiled program fits."""
        return isinstance(surrogate, Climb) and count == self.rows

    def __call__(self, points: Tensor, climb: Climb, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient (R, *F), outputs (R, C) and loss (R,)."""
        labels = climb.labels[rows]
        targets = labels if climb.targets is None else climb.targets[rows]
        key = (climb.loss, climb.targets is not None)
        if key not in self._programs:
            self._programs[key] = self._built(*key)
        return self._programs[key](points, labels, targets)

    def _built(self, name: str, targeted: bool) -> GradientFunction:
        function, model = loss_named(name), self.model

        def gradient(points: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            def climbed(moving: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                outputs = model(moving)
                losses = function(outputs, labels, targets if targeted else None)
                return losses.sum(), (outputs, losses)

            slope, (outputs, losses) = torch.func.grad(climbed, has_aux=True)(points)
            return slope, outputs, losses

        return cast(GradientFunction, torch.compile(gradient, dynamic=False))
