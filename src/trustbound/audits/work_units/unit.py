"""A work unit and what it brings back: plain data, so that a unit can be sent anywhere, and run again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from trustbound.audits.work_units.draws import derived_key
from trustbound.record.codec import from_document, to_document
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow


@dataclass(frozen=True, kw_only=True)
class WorkUnit:
    """One piece of an audit: what is done about which examples.

    Parameters
        step, shard     which piece of which step: evidence is kept, and random numbers are drawn, under these names.
        kind            what is done, a row of `work_units/registry.py`.
        positions       places of the examples in the audit.
        method, params  an attack or a certifier by its registry name, and its parameters as JSON holds them.
        threat          the threat, by its name in the subject.
        key             of all randomness of the audit.
        classes         that the model answers with.
        batch_size      rows per model call; None chooses.
        sizes           one for each example, in place of the threat's epsilon; empty for none.
        logit_scale      power of two by which surrogate losses see the logits.

    >>> unit = WorkUnit(step="clean", shard=0, kind="clean", positions=(4, 5), key=7)
    >>> WorkUnit.from_document(unit.document()) == unit
    True
    """

    step: str
    shard: int
    kind: str
    positions: tuple[int, ...]
    key: int
    method: str = ""
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)
    threat: str = ""
    classes: int = 0
    batch_size: int | None = None
    sizes: tuple[float, ...] = ()
    logit_scale: float = 1.0

    @property
    def rows(self) -> Tensor:
        """The positions as a tensor."""
        return torch.tensor(self.positions, dtype=torch.int64)

    def without(self, finished: Collection[int]) -> WorkUnit:
        """The same about those of its examples that are not finished.

        >>> WorkUnit(step="clean", shard=0, kind="clean", positions=(4, 5), key=7).without({4}).positions
        (5,)
        """
        kept = [at for at, position in enumerate(self.positions) if position not in finished]
        if len(kept) == len(self.positions):
            return self
        sizes = tuple(self.sizes[at] for at in kept) if self.sizes else ()
        return replace(self, positions=tuple(self.positions[at] for at in kept), sizes=sizes)

    def seed(self, purpose: str = "") -> int:
        """Seed for a model that draws random numbers itself: fixed for a unit, different between units."""
        return derived_key(self.key, f"{self.step}{purpose}/{self.shard}")

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        document: dict[str, Any] = to_document(self)
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> WorkUnit:
        """From what JSON holds."""
        return from_document(cls, document)


@dataclass(frozen=True, kw_only=True)
class UnitResult:
    """What a work unit brings back: one row an example, its cost, and tensors on the CPU with one row an example.

    A unit that is about no single example, but about all of them, brings back a document, as JSON holds it.
    """

    rows: Sequence[EvidenceRow]
    cost: Cost
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)
