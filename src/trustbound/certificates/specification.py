"""What is to be proven, as rows over the logits; and what every certifier offers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.region import Region
from trustbound.errors import InputError
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class LowerBound:
    """Lower bounds of rows over the logits, (B, K) or (B,).

    Parameters
        value       holds for the network in exact arithmetic.
        run         holds for the network as it runs, in the precision of each of its steps; −∞ where that may
                    overflow or round beyond all bounds.

    >>> loose = LowerBound(value=torch.tensor([1.0]), run=torch.tensor([0.5]))
    >>> float(loose.slack), float(loose.better(LowerBound(value=torch.tensor([0.9]), run=torch.tensor([0.8]))).run)
    (0.5, 0.800000011920929)
    """

    value: Tensor
    run: Tensor

    @property
    def slack(self) -> Tensor:
        """What rounding may take, ∞ where nothing is known of it."""
        return torch.where(self.run.isneginf() & ~self.value.isneginf(), math.inf, self.value - self.run)

    def better(self, other: LowerBound) -> LowerBound:
        """Return the larger of two, one by one; NaN knows nothing."""
        return LowerBound(value=torch.fmax(self.value, other.value), run=torch.fmax(self.run, other.run))

    def shifted(self, by: Tensor) -> LowerBound:
        """Return bounds of rows that a number is added to, in float64, less what the sums round.

        >>> float(LowerBound(value=torch.tensor([1.0]), run=torch.tensor([0.5])).shifted(torch.tensor([2.0])).run) < 2.5
        True
        """
        value, run = (
            (kept + by) - 2.0**-51 * (kept.abs() + by.abs()) for kept in (self.value.double(), self.run.double())
        )
        return LowerBound(value=value, run=run)

    def separate(self) -> LowerBound:
        """Return the same in tensors of their own, to be written into."""
        return LowerBound(value=self.value.clone(), run=self.run.clone())

    @property
    def proven(self) -> Tensor:
        """Where the bound as the network runs is above 0 by more than what float64 may lose to underflow."""
        return self.run > 1e-200

    def least(self) -> LowerBound:
        """Return the smallest of each example's rows, (B,); NaN if any of them is."""
        return LowerBound(value=self.value.amin(1), run=self.run.amin(1))

    def unknown(self, lost: Tensor | None) -> LowerBound:
        """Return the same without any bound as the network runs for the examples `lost` (B,)."""
        return (
            self
            if lost is None
            else LowerBound(value=self.value, run=self.run.masked_fill(lost.unsqueeze(1), -math.inf))
        )


class Refuter(Protocol):
    """Whoever can tell that an example is broken, by a point that the model, as it runs, answers wrongly."""

    def attack(self, rows: Tensor) -> Tensor:
        """Search for such points of some examples, and say of which one was found, (R,) bool."""

    def replay(self, row: int, points: Tensor) -> bool:
        """Say whether one of the points (P, *F), put into the threat's set, is such a point of an example."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Certifier(ABC):
    """A way to bound margins from below over a region: `memory` and one method to fill in.

    refutes     whether it also looks for counterexamples.

    Parameters
        memory      bytes that one piece of work may hold, about; batches are cut to fit, so that the number of
                    examples does not matter.
    """

    refutes: ClassVar[bool] = False

    memory: int = 2**27

    def __post_init__(self) -> None:
        if type(self.memory) is not int or not 1 <= self.memory < 2**63:
            raise InputError(f"`memory` must be a whole number of bytes, 1 to 2⁶³ − 1; got {self.memory!r}")

    def bounds(self, graph: Graph, region: Region, specification: Tensor) -> LowerBound:
        """Bound ⟨row, logits⟩ from below over the region: rows (B, K, C) to (B, K)."""
        return self._cut(graph, region, specification, least=False)

    def margins(
        self,
        graph: Graph,
        region: Region,
        labels: Tensor,
        targets: Tensor | None = None,
        task: Task = CLASSIFICATION,
    ) -> LowerBound:
        """Bound the task's margin from below, (B,): of a classification min over j of (logit of y − logit of j)."""
        required = task.requirement(labels, graph.classes, targets)
        # Which row decides is known behind the shift, and of all groups, alone.
        found = self._cut(graph, region, required.rows, least=required.every)
        found = found if required.shift is None else found.shifted(required.shift)
        return LowerBound(value=required.margin(found.value), run=required.margin(found.run))

    def settle(
        self,
        graph: Graph,
        region: Region,
        labels: Tensor,
        targets: Tensor | None,
        task: Task,
        refuter: Refuter,
    ) -> LowerBound:
        """Bound the margins as `margins` does; who `refutes` leaves alone what the refuter shows to be broken."""
        return self.margins(graph, region, labels, targets, task)

    @abstractmethod
    def bound(self, graph: Graph, region: Region, specification: Tensor, least: bool) -> LowerBound:
        """Bound ⟨row, logits⟩ for a few examples; with `least` only the smallest of each counts."""

    def _cut(self, graph: Graph, region: Region, specification: Tensor, least: bool) -> LowerBound:
        """Bound a batch piece by piece."""
        if graph.head != len(graph.operations) - 1 and bool((specification.sum(2) != 0).any()):
            raise InputError(
                "rows over the logits of a network that ends in log-softmax must sum to zero, as margins do; got a "
                f"row with sum {float(specification.sum(2).abs().max()):g}"
            )
        if not len(region):
            nothing = specification.new_zeros(specification.shape[:2])
            return LowerBound(value=nothing, run=nothing)
        each = 8 * (8 * sum(step.held for step in graph.operations) + 4 * specification[0].numel())
        each += 8 * 2 * specification.shape[1] * graph.operations[graph.operations[-1].sources[0]].features
        rows = torch.arange(len(region), device=specification.device)
        with torch.no_grad():
            parts = [
                self.bound(graph, region.select(part), specification[part], least)
                for part in rows.split(max(1, self.memory // each))
            ]
        return LowerBound(value=torch.cat([part.value for part in parts]), run=torch.cat([part.run for part in parts]))
