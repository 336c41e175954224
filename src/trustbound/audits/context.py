"""What every part of an audit shares: the question, the evidence store, and how work units are run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from trustbound.attacks.oracle import Oracle
from trustbound.data.labelled import LabelledSet
from trustbound.errors import RecordError
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.record.disk.atomic import write_atomically
from trustbound.record.store import EvidenceRow, Store
from trustbound.threat import Random, Threat

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
        classes     that the model answers with.
        control     (N,) bool, that no proof skips, and no attack where proofs alone speak.
    """

    model: Model
    data: LabelledSet
    threats: tuple[Threat, ...]
    budget: str
    seed: int
    key: int
    classes: int
    store: Store
    control: Tensor
    batch_size: int | None = None
    progress: Progress = field(default_factory=Silent)

    def inputs(self, positions: Tensor) -> Tensor:
        """Examples at positions, on the model's device, in the dtype that is searched in."""
        return self.data.batch(positions).to(self.model.device, self.model.input_dtype)

    def labels(self, positions: Tensor) -> Tensor:
        """Their labels, on the model's device."""
        return self.data.labels[positions].to(self.model.device)

    def ids(self, positions: Tensor) -> Tensor:
        """Their identities for per-example randomness: row numbers of the whole set."""
        return torch.as_tensor(self.data.indices, dtype=torch.int64)[positions].to(self.model.device)

    def drawn(self, name: str, positions: Tensor, count: int) -> Tensor:
        """At most `count` of the positions, at random by the examples' identities, in their old order."""
        return drawn(self.key, name, self.data, positions, count)

    def run(self, step: str, positions: Tensor, work: Work) -> list[EvidenceRow]:
        """Run a step on examples, unit by unit; what is finished already is read back."""
        if not len(positions):
            return []
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

    def tensors(self, step: str, *, whole: bool = False) -> Iterator[dict[str, Tensor]]:
        """What a finished step saved, unit by unit: its witnesses, or with `whole` one row for each example.

        Raises      RecordError when a file that the evidence speaks of is missing or damaged.
        """
        wanted = {row.position for row in self.store.rows(step) if row.found or whole}
        for shard in self.store.done(step):
            path = self.store.tensors(step, shard)
            if not path.exists():
                continue
            try:
                part = load_file(path)
            except (SafetensorError, OSError) as error:
                raise RecordError(
                    f"{path} must hold what the evidence speaks of; it cannot be read: {error}. Restore it, or choose "
                    "another --run."
                ) from error
            wanted -= set(part["position"].tolist())
            yield part
        if wanted:
            raise RecordError(
                f"the run directory {self.store.run} lacks what the step {step} kept of {len(wanted)} examples. "
                "Restore its folder adversarials, or choose another --run."
            )

    def oracle(self, positions: Tensor, step: str, shard: int, *, silenced: Tensor | None = None) -> Oracle:
        """The window to the model for one work unit of a step: seeded, and with names for what the model may raise."""
        return Oracle(
            self.model,
            examples=len(positions),
            batch_size=self.batch_size,
            key=self.unit_key(step, shard),
            task=step,
            names=torch.as_tensor(self.data.indices)[positions],
            silenced=silenced,
        )

    def unit_key(self, step: str, shard: int) -> int:
        """Seed for a model that draws random numbers itself: fixed for a unit, different between units."""
        return derived_key(self.key, f"{step}/{shard}")


def derived_key(key: int, name: str) -> int:
    """A 63-bit key that depends on a key and a name.

    >>> derived_key(1, "a") != derived_key(1, "b")
    True
    """
    return int.from_bytes(hashlib.blake2b(f"{key}/{name}".encode(), digest_size=8).digest(), "big") >> 1


def drawn(key: int, name: str, data: LabelledSet, positions: Tensor, count: int) -> Tensor:
    """At most `count` of the positions, in their old order.

    Which ones depends on the key, the name and each example's own identity: neither on how the data is sorted nor
    on where an example stands in it.
    """
    if count >= len(positions):
        return positions
    ids = torch.as_tensor(data.indices, dtype=torch.int64)[positions]
    lot = Random(key, ids).stream(name).uniform((1,), restart=0, draw=0, dtype=torch.float64)[:, 0]
    return positions[lot.argsort(stable=True)[:count].sort().values]


def _saver(tensors: dict[str, Tensor]) -> Callable[[Path], object]:
    # As bytes: the library's own writer leaves a scratch file behind when it is killed.
    return lambda path: path.write_bytes(save(tensors))
