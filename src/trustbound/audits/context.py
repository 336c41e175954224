"""What every part of an audit shares: the question, the evidence store, and how work units are run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trustbound.data.labelled import LabelledSet
from trustbound.model.wrap import Model
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow, Store, write_atomically
from trustbound.threat import Threat

#: Examples per work unit: what a crash can cost, and how many rows one search keeps its calls full with.
UNIT = 512


class Progress(Protocol):
    """Who is told how far the audit is."""

    def begin(self, step: str, total: int) -> None:
        """A step starts on `total` examples."""

    def advance(self, count: int) -> None:
        """Some of them are finished."""


@dataclass(frozen=True)
class Silent:
    """Tell nobody."""

    def begin(self, step: str, total: int) -> None:
        """Nothing."""

    def advance(self, count: int) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What a work unit brings back: one row an example, its cost, and tensors with one row an example."""

    rows: Sequence[EvidenceRow]
    cost: Cost
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    events: tuple[str, ...] = ()


Work = Callable[[Tensor, int], Unit]


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """One audit in progress.

    Parameters
        data        the examples audited, in the order of their positions.
        key         63-bit key of all randomness.
        control     (N,) bool, the examples on which nothing is ever skipped.
    """

    model: Model
    data: LabelledSet
    threats: tuple[Threat, ...]
    budget: str
    seed: int
    key: int
    store: Store
    control: Tensor
    batch_size: int | None = None
    progress: Progress = field(default_factory=Silent)

    def inputs(self, positions: Tensor) -> Tensor:
        """Examples at positions, on the model's device, in the dtype that is searched in."""
        dtype = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        return self.data.batch(positions).to(self.model.device, dtype)

    def labels(self, positions: Tensor) -> Tensor:
        """Their labels, on the model's device."""
        return self.data.labels[positions].to(self.model.device)

    def ids(self, positions: Tensor) -> Tensor:
        """Their identities for per-example randomness: row numbers of the whole set."""
        return torch.as_tensor(self.data.indices, dtype=torch.int64)[positions].to(self.model.device)

    def run(self, step: str, positions: Tensor, work: Work) -> list[EvidenceRow]:
        """Run a step on examples, unit by unit; what is finished already is read back."""
        finished = self.store.done(step)
        self.progress.begin(step, len(positions))
        for shard, chunk in enumerate(positions.split(UNIT)):
            if shard not in finished:
                unit = work(chunk, shard)
                if unit.tensors:
                    path = self.store.tensors(step, shard)
                    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in unit.tensors.items()}
                    write_atomically(path, _saver(tensors))
                self.store.commit(step, shard, unit.rows, unit.cost, unit.events)
            self.progress.advance(len(chunk))
        return self.store.rows(step)

    def tensors(self, step: str) -> Iterator[dict[str, Tensor]]:
        """What a finished step saved, unit by unit."""
        for shard in self.store.done(step):
            path = self.store.tensors(step, shard)
            if path.exists():
                yield load_file(path)

    def unit_key(self, step: str, shard: int) -> int:
        """Seed for a model that draws random numbers itself: fixed for a unit, different between units."""
        return derived_key(self.key, f"{step}/{shard}")


def derived_key(key: int, name: str) -> int:
    """A 63-bit key that depends on a key and a name.

    >>> derived_key(1, "a") != derived_key(1, "b")
    True
    """
    return int.from_bytes(hashlib.blake2b(f"{key}/{name}".encode(), digest_size=8).digest(), "big") >> 1


def _saver(tensors: dict[str, Tensor]) -> Callable[[Path], None]:
    return lambda path: save_file(tensors, path)
