"""Who asked the model how often: forwards and backwards of every example, granted before they are made."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class _Running:
    """Passes not yet booked, the same number for every row; rows (R,) may repeat an example."""

    owner: Tensor
    forwards: int = 0
    backwards: int = 0


class Passes:
    """The counts of `examples` examples, and what their budget still allows.

    A call is granted or refused to an example as a whole, before it is made; whoever was refused once is closed, and
    stays so until the reserve is released. So no example depends on how the others fare.

    Parameters
        budget      forwards allowed per example; None for any number.

    >>> passes = Passes(2, budget=3)
    >>> passes.count(torch.tensor([0]), forwards=2)
    >>> passes.grant(torch.tensor([0, 0, 1, 1]), forwards=1)  # two rows each
    tensor([2, 3])
    >>> passes.refused(torch.tensor([0, 1]))
    tensor([ True, False])
    """

    def __init__(self, examples: int, budget: int | None = None) -> None:
        self.budget = budget
        self._kept_back = 0
        self._closed = torch.zeros(examples, dtype=torch.bool)
        self._forwards = torch.zeros(examples, dtype=torch.int64)
        self._backwards = torch.zeros(examples, dtype=torch.int64)
        self._running = _Running(torch.arange(0))

    @property
    def forwards(self) -> Tensor:
        """Forward passes of each example so far, (examples,) int64."""
        self._settle()
        return self._forwards

    @property
    def backwards(self) -> Tensor:
        """Backward passes of each example so far, (examples,) int64."""
        self._settle()
        return self._backwards

    def reserve(self, forwards: int) -> None:
        """Keep so many forwards of each example back."""
        self._kept_back = forwards

    def release(self) -> None:
        """Allow what was kept back, also to examples that had nothing else left."""
        self._kept_back = 0
        self._closed.zero_()

    def grant(self, owner: Tensor, forwards: int) -> Tensor | None:
        """Which rows (R,) can pay for so many forwards each: their numbers, None for all of them."""
        if self.budget is None:
            return None
        place = owner.cpu()
        asked = torch.bincount(place, minlength=len(self._closed)) * forwards
        self._closed |= (asked > 0) & (asked > self.budget - self._kept_back - self.forwards)
        refused = self._closed[place]
        return (~refused).nonzero()[:, 0].to(owner.device) if bool(refused.any()) else None

    def refused(self, owner: Tensor) -> Tensor | None:
        """Which rows' examples are closed, (R,) bool; None where no budget was set."""
        return None if self.budget is None else self._closed[owner.cpu()].to(owner.device)

    def count(self, owner: Tensor, *, forwards: int, backwards: int = 0) -> None:
        """Note passes of each row (R,).

        Calls for the same rows follow each other: the sums run on until the rows change.
        """
        if owner is not self._running.owner:
            self._settle()
            self._running = _Running(owner)
        self._running.forwards += forwards
        self._running.backwards += backwards

    def _settle(self) -> None:
        """Book the running sums."""
        running = self._running
        place = running.owner.cpu()
        self._forwards.index_add_(0, place, torch.full(place.shape, running.forwards, dtype=torch.int64))
        self._backwards.index_add_(0, place, torch.full(place.shape, running.backwards, dtype=torch.int64))
        running.forwards = running.backwards = 0
