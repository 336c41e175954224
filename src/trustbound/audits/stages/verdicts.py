"""Verdicts: where each example stands under one threat, as the stages report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trustbound.metrics.decision import NO_ANSWER
from trustbound.record.audit import Bracket, ColumnRadius, StageFacts
from trustbound.record.binomial import binomial_interval
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow


@dataclass(frozen=True)
class Round:
    """What a stage of the search tried of the examples that stood, and how many of them it broke.

    >>> Round("near", tried=40, broke=8).share
    0.2
    """

    stage: str
    tried: int
    broke: int

    @property
    def share(self) -> float:
        """Of those tried; 0 where nothing stood."""
        return self.broke / max(self.tried, 1)


@dataclass(eq=False)
class Verdicts:
    """For each example: the stage that broke it, the one that proved it, and the smallest margin seen.

    Shapes      tie (N,) bool: a margin within rounding error was seen; rounded (N,) bool: a proof was lost to rounding;
                unanswered (N,) bool: broken by an input to which the model gives no answer.

    >>> verdicts = Verdicts.of(torch.tensor([True, True, False]))
    >>> verdicts.attacked("first", [EvidenceRow(position=0, found=True, margin=-1.0)])
    1
    >>> verdicts.open().tolist()
    [1]
    """

    correct: Tensor
    margin: Tensor
    proven_margin: Tensor
    size: Tensor
    tie: Tensor
    rounded: Tensor
    unanswered: Tensor
    broken_by: list[str]
    certified_by: list[str]
    #: Broken by each step, first or again.
    broke: dict[str, set[int]] = field(default_factory=dict)
    #: Broken by less than a radius that is proven for them, whatever stands at the threat's own epsilon.
    contradicted: set[int] = field(default_factory=set)
    #: The largest size of the curve at which each of its examples is proven.
    radii: dict[int, float] = field(default_factory=dict)
    #: What each certifier said of each example at the threat's own epsilon.
    bounds: dict[str, dict[int, EvidenceRow]] = field(default_factory=dict)
    #: Every stage after the first, as it went.
    rounds: list[Round] = field(default_factory=list)

    @classmethod
    def of(cls, correct: Tensor) -> Verdicts:
        """Nothing broken, nothing proven."""
        count = len(correct)
        return cls(
            correct=correct,
            margin=torch.full((count,), torch.inf, dtype=torch.float64),
            proven_margin=torch.full((count,), -torch.inf, dtype=torch.float64),
            size=torch.full((count,), torch.inf, dtype=torch.float64),
            tie=torch.zeros(count, dtype=torch.bool),
            rounded=torch.zeros(count, dtype=torch.bool),
            unanswered=torch.zeros(count, dtype=torch.bool),
            broken_by=[""] * count,
            certified_by=[""] * count,
        )

    def attacked(self, step: str, rows: Sequence[EvidenceRow]) -> int:
        """Take what an attack found; returns how many examples it broke first."""
        first = 0
        self.broke[step] = set()
        for row in rows:
            position = row.position
            if row.margin is not None:
                self.margin[position] = min(float(self.margin[position]), row.margin)
            self.tie[position] |= row.tie
            if row.found:
                self.broke[step].add(position)
                if not self.broken_by[position]:
                    self.broken_by[position] = step
                    self.unanswered[position] = row.prediction == NO_ANSWER
                    self.size[position] = float("inf") if row.size is None else row.size
                    first += 1
        return first

    def proved(self, step: str, rows: Sequence[EvidenceRow]) -> int:
        """Take what a certifier proved; returns how many examples it proved first."""
        first = 0
        for row in rows:
            position = row.position
            if row.margin is not None:
                self.proven_margin[position] = max(float(self.proven_margin[position]), row.margin)
            self.rounded[position] |= row.tie
            if row.found and not self.certified_by[position]:
                self.certified_by[position] = step
                first += 1
        return first

    @property
    def broken(self) -> Tensor:
        """(N,) bool."""
        return torch.tensor([bool(step) for step in self.broken_by])

    @property
    def certified(self) -> Tensor:
        """(N,) bool."""
        return torch.tensor([bool(step) for step in self.certified_by])

    def conflicts(self) -> list[int]:
        """Examples that are broken and proven, or broken inside a proven radius: must be none."""
        both = {position for position, step in enumerate(self.broken_by) if step and self.certified_by[position]}
        return sorted(both | self.contradicted)

    def open(self) -> Tensor:
        """Positions that are correct, not broken and not proven, smallest margin first."""
        rows = (self.correct & ~self.broken & ~self.certified).nonzero()[:, 0]
        return rows[self.margin[rows].argsort(stable=True)]

    def verdict(self, position: int) -> str:
        """What is known of an example."""
        if not self.correct[position]:
            return "misclassified"
        if self.broken_by[position]:
            return "broken"
        return "certified" if self.certified_by[position] else "unknown"

    def bracket(
        self,
        threat: str,
        *,
        no_proof: str,
        goal: str,
        access: str,
        change: str,
        columns: tuple[ColumnRadius, ...] = (),
    ) -> Bracket:
        """Both bounds with their exact intervals."""
        verdicts = [self.verdict(position) for position in range(len(self.correct))]
        unknown = torch.tensor([verdict == "unknown" for verdict in verdicts], dtype=torch.bool)
        count = {name: verdicts.count(name) for name in ("certified", "broken", "misclassified", "unknown")}
        total, unbroken = len(verdicts), count["certified"] + count["unknown"]
        return Bracket(
            threat=threat,
            lower=count["certified"] / total,
            upper=unbroken / total,
            lower_interval=binomial_interval(count["certified"], total),
            upper_interval=binomial_interval(unbroken, total),
            n=total,
            ties=int((self.tie & unknown).sum()),
            rounded=int((self.rounded & unknown).sum()),
            unanswered=int((self.unanswered & self.broken & self.correct).sum()),
            no_proof=no_proof,
            goal=goal,
            access=access,
            change=change,
            columns=columns,
            certified=count["certified"],
            broken=count["broken"],
            misclassified=count["misclassified"],
            unknown=count["unknown"],
        )


def stage_facts(
    threat: str,
    step: str,
    kind: str,
    method: str,
    rows: Sequence[EvidenceRow],
    settled: int,
    cost: Cost,
    *,
    control: int = 0,
    note: str = "",
) -> StageFacts:
    """One line of the waterfall."""
    return StageFacts(
        threat=threat,
        name=step,
        kind=kind,
        method=method,
        examined=len(rows),
        settled=settled,
        control=control,
        rounded=sum(row.tie for row in rows) if kind == "proof" else 0,
        cost=cost,
        note=note,
    )
