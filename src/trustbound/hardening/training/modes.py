"""Which parts of a model run in train mode while it is trained: those that learn, and no others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


class Modes:
    """The modes of a model's parts, as they came.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    >>> _ = net[1].eval()
    >>> Modes(net).learn()
    >>> [part.training for part in net]
    [True, False, True, True]
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.came = [(part, part.training) for part in model.modules()]

    def restore(self) -> None:
        """Every part in the mode that it came in."""
        for part, training in self.came:
            part.training = training

    def learn(self) -> None:
        """Train mode, except for what was put in eval mode on purpose and for frozen parts.

        A part that came in eval mode beside others in train mode stays there; a model that came in eval mode
        altogether (every loaded one does) is switched on. A part of which no weight requires a gradient is in eval
        mode with all that it holds: no statistic of a frozen batch norm moves, no frozen dropout drops.
        """
        self.model.train()
        if any(training for part, training in self.came if part is not self.model):
            for part, training in self.came:
                part.training = part.training and (training or part is self.model)
        for part in self.model.modules():
            weights = list(part.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                part.eval()


@contextlib.contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Eval mode; on exit every part is in the mode that it had."""
    modes = Modes(model)
    model.eval()
    try:
        yield
    finally:
        modes.restore()
