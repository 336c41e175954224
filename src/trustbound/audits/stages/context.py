"""What every stage of an audit shares: the question, the evidence store, and how work units are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from trustbound.audits.stages.allowance import Allowance, Unlimited
from trustbound.audits.work_units.draws import drawn
from trustbound.audits.work_units.subject import Subject
from trustbound.audits.work_units.unit import UnitResult, WorkUnit
from trustbound.data.labelled import LabelledSet
from trustbound.engines import Engine
from trustbound.errors import RecordError
from trustbound.model.wrapping import Model
from trustbound.record.codec import to_document
from trustbound.record.cost import Cost
from trustbound.record.disk.atomic import write_atomically
from trustbound.record.store import EvidenceRow, Store
from trustbound.threat import Threat

#: Examples that are worth a unit of their own: calls on fewer cost more for each.
FEWEST = 32

#: The step under which events of the engine are kept: they are about the way, not about what was found.
ENGINE = "engine"


class Progress(Protocol):
    """Who is told how far the audit is."""

    def expect(self, seconds: Mapping[str, float]) -> None:
        """What each step is likely to take, in order, by the names of the plan."""

    def begin(self, step: str, total: int) -> None:
        """A step starts on `total` examples."""

    def advance(self, count: int) -> None:
        """Some of them are finished."""


@dataclass(frozen=True)
class Silent:
    """Tell nobody."""

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Nothing."""

    def begin(self, step: str, total: int) -> None:
        """Nothing."""

    def advance(self, count: int) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """One audit in progress: the only place that writes evidence.

    Parameters
        subject     the model, the examples in the order of their positions, and the threats.
        engine      carries out the units.
        unit_size   examples of a unit at most: what a crash can cost, and how many rows one search keeps its calls full
                    with.
        parts       units that a step is cut in at least, where each then holds `FEWEST` examples.
        key         63-bit key of all randomness.
        classes     that the model answers with.
        control     (N,) bool, that no proof skips, and no attack where proofs alone speak.
        allowance   says which steps there is time for.
    """

    subject: Subject
    engine: Engine
    unit_size: int
    budget: str
    seed: int
    key: int
    classes: int
    store: Store
    control: Tensor
    parts: int = 1
    batch_size: int | None = None
    progress: Progress = field(default_factory=Silent)
    allowance: Allowance = field(default_factory=Unlimited)

    @property
    def model(self) -> Model:
        """What is under test."""
        return self.subject.model

    @property
    def data(self) -> LabelledSet:
        """The examples."""
        return self.subject.data

    @property
    def threats(self) -> tuple[Threat, ...]:
        """What they are asked about."""
        return tuple(self.subject.threats.values())

    def inputs(self, positions: Tensor) -> Tensor:
        """Examples at positions, on the model's device, in the dtype that is searched in."""
        return self.subject.inputs(positions)

    def labels(self, positions: Tensor) -> Tensor:
        """Their labels, on the model's device."""
        return self.subject.labels(positions)

    def drawn(self, name: str, positions: Tensor, count: int) -> Tensor:
        """At most `count` of the positions, at random by the examples' identities, in their old order."""
        return drawn(self.key, name, self.data, positions, count)

    def run(
        self,
        step: str,
        kind: str,
        positions: Tensor,
        *,
        method: str = "",
        params: Mapping[str, Any] | None = None,
        threat: Threat | None = None,
        sizes: Tensor | None = None,
        logit_scale: float = 1.0,
        examples: int | None = None,
    ) -> list[EvidenceRow]:
        """Run a step on examples, unit by unit; what is finished already is read back.

        Parameters
            kind            of work, a row of `work_units/registry.py`.
            sizes           (N,) by position, in place of the threat's epsilon.
            examples        of a unit at most, where that is not the audit's own number.

        The others are those of a `WorkUnit`.
        """
        units = [
            replace(
                unit,
                method=method,
                params=to_document(params or {}),
                threat="" if threat is None else str(threat),
                sizes=() if sizes is None else tuple(sizes[unit.rows].tolist()),
                logit_scale=logit_scale,
            )
            for unit in self._units(step, kind, positions, examples or self.unit_size)
        ]
        return self._finished(step, units, self.engine.run)

    def here(self, step: str, positions: Tensor, work: Callable[[WorkUnit], UnitResult]) -> list[EvidenceRow]:
        """Run a step that needs what the run directory holds."""
        units = self._units(step, "here", positions, self.unit_size)
        return self._finished(step, units, lambda units: map(work, units))

    def _units(self, step: str, kind: str, positions: Tensor, most: int) -> list[WorkUnit]:
        examples = most if self.parts == 1 else min(most, max(FEWEST, -(-len(positions) // self.parts)))
        return [
            WorkUnit(
                step=step,
                shard=shard,
                kind=kind,
                positions=tuple(rows.tolist()),
                key=self.key,
                classes=self.classes,
                batch_size=self.batch_size,
            )
            for shard, rows in enumerate(positions.split(min(examples, len(positions))) if len(positions) else ())
        ]

    def _finished(
        self,
        step: str,
        units: Sequence[WorkUnit],
        carried_out: Callable[[Sequence[WorkUnit]], Iterator[UnitResult]],
    ) -> list[EvidenceRow]:
        """The evidence of a step once all of its units are kept.

        What is finished goes by examples: units of a run that an earlier version began held others of them. What is
        left of a unit whose number is taken gets a free one.
        """
        if not units:
            return []
        finished = {row.position for row in self.store.rows(step)}
        left = _numbered([unit.without(finished) for unit in units], set(self.store.done(step)))
        self.progress.begin(step, sum(len(unit.positions) for unit in units))
        self.progress.advance(sum(len(unit.positions) for unit in units) - sum(len(unit.positions) for unit in left))
        for unit, result in zip(left, carried_out(left), strict=True):
            self._keep(unit, result)
            self.progress.advance(len(unit.positions))
        return self.store.rows(step)

    def _keep(self, unit: WorkUnit, result: UnitResult) -> None:
        """Tensors first, then the rows that speak of them."""
        if result.tensors:
            write_atomically(self.store.tensors(unit.step, unit.shard), _saver(result.tensors))
        self.store.commit(unit.step, unit.shard, result.rows, result.cost, result.events)
        self.heard()

    def heard(self) -> None:
        """Keep what the engine told of the way since it was last asked, a worker that died say."""
        if self.engine.events:
            told = list(self.engine.events)
            self.engine.events.clear()
            self.store.commit(ENGINE, len(self.store.done(ENGINE)), [], Cost(), told)

    def tensors(self, step: str, *, whole: bool = False, refuted: bool = False) -> Iterator[dict[str, Tensor]]:
        """What a finished step saved, unit by unit.

        Its witnesses; with `whole` one row for each example; with `refuted` the counterexamples of a proof.

        Raises      RecordError when a file that the evidence speaks of is missing or damaged.
        """
        rows = self.store.rows(step)
        wanted = {row.position for row in rows if (row.payload.get("refuted") if refuted else row.found or whole)}
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


def _saver(tensors: Mapping[str, Tensor]) -> Callable[[Path], object]:
    # As bytes: the library's own writer leaves a scratch file behind when it is killed.
    return lambda path: path.write_bytes(save(dict(tensors)))


def _numbered(units: Sequence[WorkUnit], taken: set[int]) -> list[WorkUnit]:
    """Those that have examples, each under a number of its own."""
    left = []
    for unit in units:
        if unit.positions:
            shard = unit.shard if unit.shard not in taken else max(taken) + 1
            taken.add(shard)
            left.append(unit if shard == unit.shard else replace(unit, shard=shard))
    return left
