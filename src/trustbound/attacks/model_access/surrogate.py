"""Surrogate losses without a name: the goal's own margin, or a loss of the caller's."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from torch import Tensor

from trustbound.errors import InputError
from trustbound.metrics.losses import Loss
from trustbound.threat import Objective


@dataclass(frozen=True, eq=False)
class CustomLoss:
    """An objective's own margin, downwards, or a loss on its labels and targets, upwards.

    Called with outputs (r, *O) of some rows, returns (r,).

    Raises      InputError when the loss does not give one number for each row.

    >>> import torch
    >>> from trustbound.threat import Misclassify
    >>> objective = Misclassify().bind(torch.tensor([0, 1]), 2)
    >>> CustomLoss(objective)(torch.tensor([[3.0, 1.0]]), slice(0, 1))
    tensor([-2.])
    """

    objective: Objective
    loss: Loss | None = None

    def __call__(self, outputs: Tensor, rows: Tensor | slice) -> Tensor:
        """What is climbed of some rows."""
        ours = self.objective.select(rows)
        if self.loss is None:
            return -ours.margin(outputs)
        if ours.targets is None or not _takes_targets(self.loss):
            climbed = self.loss(outputs, ours.labels)
        else:
            climbed = self.loss(outputs, ours.labels, ours.targets)
        return _each(climbed, outputs)


@dataclass(frozen=True, eq=False)
class OnOutputs:
    """A loss of the caller's on the outputs of another task than classification, as they are, upwards.

    Called with outputs (r, *O) of some rows, returns (r,); labels (R, *L) of all.

    >>> import torch
    >>> OnOutputs(lambda outputs, targets: (outputs[:, 0] - targets).square(), torch.tensor([1.0, 2.0]))(
    ...     torch.tensor([[5.0]]), slice(1, 2)
    ... )
    tensor([9.])
    """

    loss: Loss
    labels: Tensor
    raw = True

    def __call__(self, outputs: Tensor, rows: Tensor | slice) -> Tensor:
        """What is climbed of some rows."""
        return _each(self.loss(outputs, self.labels[rows].to(outputs.device)), outputs)

    def select(self, rows: Tensor) -> OnOutputs:
        """The same loss for some of the rows."""
        return OnOutputs(self.loss, self.labels[rows.to(self.labels.device)])


def _each(climbed: Tensor, outputs: Tensor) -> Tensor:
    """One number for each row, else refused."""
    if climbed.shape != outputs.shape[:1]:
        raise InputError(
            f"a loss must give one number for each example, here ({len(outputs)},), larger for the adversary; got "
            f"shape {tuple(climbed.shape)}. Leave its mean out (reduction='none')."
        )
    return climbed


def _takes_targets(loss: Loss) -> bool:
    """Whether a function has a place for targets behind outputs and labels."""
    try:
        inspect.signature(loss).bind(None, None, None)
    except (TypeError, ValueError):
        return False
    return True
