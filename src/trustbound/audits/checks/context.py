"""What a check may look at: the model and its data before the search, the search's evidence after it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from trustbound.attacks import Attack
from trustbound.audits.checks.gradient_attacks import planned
from trustbound.data.labelled import LabelledSet
from trustbound.model.wrapping import Model
from trustbound.tasks.view import View, right_answers
from trustbound.threat import Threat

if TYPE_CHECKING:
    from trustbound.audits.stages.verdicts import Round

AnyBefore = TypeVar("AnyBefore", bound="Before")


@dataclass(frozen=True, kw_only=True, eq=False)
class Before:
    """The model, the examples under test and the threat; nothing has been searched yet.

    Parameters
        inputs      (N, *F), as they came: a check must be able to see inputs outside the box.
        labels      (N, *L) of the model's task.
        key         seeds every random choice of the checks.
        training    the training set, for the overlap check.
        attacks     the gradient attacks of the search; those of the quick budget when empty.
        share       of the examples that checks draw, that they are to draw.

    >>> from trustbound.model.wrapping import wrap
    >>> from trustbound.threat import Threat
    >>> context = Before(
    ...     model=wrap(torch.nn.Linear(2, 2)),
    ...     inputs=torch.rand(9, 2),
    ...     labels=torch.zeros(9, dtype=torch.int64),
    ...     threat=Threat.parse("linf:0.1"),
    ... )
    >>> len(context.sample(4).inputs)
    4
    """

    model: Model
    inputs: Tensor
    labels: Tensor
    threat: Threat
    key: int = 0
    training: LabelledSet | None = None
    attacks: tuple[Attack, ...] = ()
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.inputs)

    def generator(self) -> torch.Generator:
        """A fresh generator on the CPU, the same for every call."""
        return torch.Generator().manual_seed(self.key)

    def concerned(self) -> Tensor:
        """Which examples the goal asks about at all, (N,) bool."""
        return self.threat.goal.concerns(self.labels)

    @property
    def view(self) -> View | None:
        """Through which the outputs of all examples are seen as scores; None where they are some."""
        return right_answers(self.model.task, self.labels)[0]

    @property
    def right(self) -> Tensor:
        """Which of the scores is that of the right answer, (N,) int64: the labels of a classification."""
        return right_answers(self.model.task, self.labels)[1]

    def ascents(self) -> tuple[Attack, ...]:
        """The gradient attacks that the search runs."""
        return self.attacks or planned("quick", self.threat, self.model.task)

    def sample(self: AnyBefore, limit: int) -> AnyBefore:
        """At most `limit` examples, or the share of them that is asked for, drawn by the key, in their old order."""
        limit = math.ceil(self.share * limit)
        if len(self) <= limit:
            return self
        rows = torch.randperm(len(self), generator=self.generator())[:limit].sort().values
        return self.select(rows)

    def select(self: AnyBefore, rows: Tensor) -> AnyBefore:
        """Some of the examples."""
        rows = rows.to(self.inputs.device)
        return dataclasses.replace(self, inputs=self.inputs[rows], labels=self.labels[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What a search found, as plain tensors, one row an example under test. None: not measured.

    Parameters
        clean_outputs   (N, C) outputs of the clean inputs, as scores.
        broken          (N,) bool, some attack succeeded (clean mistakes are not broken).
        adversarial     (N, *F) the witnesses; rows that are not broken are ignored.
        certified       (N,) bool, some proof succeeded.
        contradicted    (N,) bool, broken and proven at the same size, the threat's epsilon or another.
        control         (N,) bool, the group that every attack was run on until its side had broken it.
        white, black    (N,) bool, broken by gradient attacks, by attacks without gradients; read on the
                        control group only.
        last            (N,) bool, still broken at the last point of the main attack, run to its end.
        trace           (S, N) smallest margin so far after each step of the main attack.
        rounds          every stage of the search after the first: what it tried of what stood, and what it broke.
        fingerprint     of the model before the search (`restored.fingerprint`).
    """

    clean_outputs: Tensor | None = None
    broken: Tensor | None = None
    adversarial: Tensor | None = None
    certified: Tensor | None = None
    contradicted: Tensor | None = None
    control: Tensor | None = None
    white: Tensor | None = None
    black: Tensor | None = None
    last: Tensor | None = None
    trace: Tensor | None = None
    rounds: tuple[Round, ...] = ()
    fingerprint: Mapping[str, str] | None = None

    def select(self, rows: Tensor) -> Evidence:
        """The evidence of some of the examples."""
        kept: dict[str, Tensor] = {}
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Tensor):
                kept[one.name] = value[:, rows] if one.name == "trace" else value[rows]
        return dataclasses.replace(self, **kept)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, eq=False)
class After(Before):
    """The same, and what the search found."""

    evidence: Evidence = field(default_factory=Evidence)

    def select(self, rows: Tensor) -> After:
        """Some of the examples with their evidence."""
        rows = rows.to(self.inputs.device)
        return dataclasses.replace(
            self,
            inputs=self.inputs[rows],
            labels=self.labels[rows],
            evidence=self.evidence.select(rows),
        )
