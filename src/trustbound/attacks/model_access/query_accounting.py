"""Query accounting: forwards and backwards of every example, granted before they are made.

Each pass is booked to an example, to what it is for (`record.cost.PURPOSES`) and to what was looked at: a class, the
outputs, gradients, or the detector's answer.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trustbound.record.cost import PURPOSES, Spent


@dataclass(eq=False)
class _Running:
    """Passes not yet booked, the same number for every row; rows (R,) may repeat an example."""

    owner: Tensor
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


class Passes:
    """The counts of `examples` examples, and what their budget still allows.

    A call is granted or refused to an example as a whole, before it is made; whoever was refused once is closed, and
    stays so until the reserve is released. So no example depends on how the others fare.

    Parameters
        budget      forwards allowed per example; None for any number.
        purpose     what passes are booked as until something else is said.

    >>> passes = Passes(2, budget=3)
    >>> passes.count(torch.tensor([0]), forwards=2)
    >>> passes.grant(torch.tensor([0, 0, 1, 1]), forwards=1)  # two rows each
    tensor([2, 3])
    >>> passes.refused(torch.tensor([0, 1]))
    tensor([ True, False])
    """

    def __init__(self, examples: int, budget: int | None = None, purpose: str = "search") -> None:
        self.budget = budget
        self._kept_back = 0
        self._closed = torch.zeros(examples, dtype=torch.bool)
        self._purpose = purpose
        self._booked: dict[tuple[str, str], Tensor] = {}
        self._none = torch.zeros(examples, dtype=torch.int64)
        self._running = _Running(torch.arange(0))

    @property
    def forwards(self) -> Tensor:
        """Forward passes of each example so far, (examples,) int64."""
        return self.booked()

    @property
    def backwards(self) -> Tensor:
        """Backward passes of each example so far, (examples,) int64."""
        return self.booked(seen="backwards")

    def booked(self, purpose: str | None = None, seen: str | None = None) -> Tensor:
        """Passes of each example for a purpose at which something was seen, (examples,) int64.

        Without a purpose for all of them, without `seen` all forwards: seen is a field of `record.cost.Spent`.
        """
        self._settle()
        total = self._none.clone()
        for (aim, sight), counts in self._booked.items():
            if purpose in (None, aim) and (sight == seen or (seen is None and sight != "backwards")):
                total += counts
        return total

    def spent(self) -> dict[str, Spent]:
        """The sums over examples, by purpose."""
        self._settle()
        found: dict[str, dict[str, int]] = {}
        for (aim, sight), counts in self._booked.items():
            found.setdefault(aim, {})[sight] = int(counts.sum())
        return {aim: Spent(**found[aim]) for aim in PURPOSES if aim in found}

    @contextlib.contextmanager
    def booking(self, purpose: str) -> Iterator[None]:
        """What is counted meanwhile is for this purpose."""
        before, self._purpose = self._purpose, purpose
        try:
            yield
        finally:
            self._purpose = before

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

    def count(self, owner: Tensor, *, forwards: int, backwards: int = 0, seen: str = "scores") -> None:
        """Note passes of each row (R,) at which something was seen: a field of `record.cost.Spent`.

        Calls for the same rows follow each other: the sums run on until the rows change.
        """
        if owner is not self._running.owner:
            self._settle()
            self._running = _Running(owner)
        self._running.counts[self._purpose, seen] += forwards
        if backwards:
            self._running.counts[self._purpose, "backwards"] += backwards

    def _settle(self) -> None:
        """Book the running sums."""
        running = self._running
        place = running.owner.cpu()
        for key, passes in running.counts.items():
            if key not in self._booked:
                self._booked[key] = self._none.clone()
            self._booked[key].index_add_(0, place, torch.full(place.shape, passes, dtype=torch.int64))
        running.counts.clear()
