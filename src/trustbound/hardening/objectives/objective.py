"""What every training objective is: a frozen dataclass of numbers and one function, `loss`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeAlias, cast, runtime_checkable

from torch import Tensor

from trustbound.hardening.objectives.learner import Learner
from trustbound.hardening.registry import OBJECTIVES
from trustbound.threat import Random

Facts: TypeAlias = Mapping[str, Tensor]


@runtime_checkable
class TrainingObjective(Protocol):
    """Numbers, and a loss whose gradient moves the weights.

    threat  whether it needs a threat to train against.
    loss    (learner, inputs (B, *F) in the box, labels (B,), random) → (mean loss (), facts). The model is
            reached through the learner only, which counts; every random number comes from `random`, or from
            the global generators, which the loop seeds anew before each step. Facts are means over the
            batch, detached, shape (); the loop averages them over an epoch.
    """

    threat: ClassVar[bool]

    def loss(self, learner: Learner, inputs: Tensor, labels: Tensor, random: Random) -> tuple[Tensor, Facts]:
        """The mean loss of a batch, and what is worth telling about it."""


def build(name: str, **numbers: Any) -> TrainingObjective:
    """An objective by its registry name, with its numbers.

    >>> build("pgd", steps=10).steps
    10
    """
    return cast(TrainingObjective, OBJECTIVES.build(name, **numbers))


def name_of(objective: TrainingObjective) -> str:
    """The registry name, or "module:Class" of an objective that is not registered.

    >>> name_of(build("standard"))
    'standard'
    """
    row = OBJECTIVES.row_of(objective)
    return f"{type(objective).__module__}:{type(objective).__qualname__}" if row is None else row.name


def numbers_of(objective: TrainingObjective) -> dict[str, Any]:
    """The objective's fields, as a recipe records them."""
    return dataclasses.asdict(objective) if dataclasses.is_dataclass(objective) else {}
