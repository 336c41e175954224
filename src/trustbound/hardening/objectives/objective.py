"""What every training objective is: a frozen dataclass of parameters with `init` and `step`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeAlias, cast, runtime_checkable

import torch.nn.functional as F
from torch import Tensor

from trustbound.errors import InputError
from trustbound.hardening.objectives.context import Batch, Context
from trustbound.hardening.registry import OBJECTIVES

State: TypeAlias = Mapping[str, Any]
Metrics: TypeAlias = Mapping[str, Tensor]
Outcome: TypeAlias = tuple[Tensor, State, Metrics]


@runtime_checkable
class TrainingObjective(Protocol):
    """Parameters, a state, and a loss whose gradient moves the weights.

    threat  whether it needs a threat to train against.
    init    (context) → state before the first step: named tensors, detached, and plain numbers or texts; {} where
            nothing is remembered. It is part of the checkpoint and of what a roll-back goes back to.
    step    (context, state, batch) → (mean loss (), state, metrics). The loop moves the weights along the loss; a step
            that has moved them itself (`context.update`) returns it detached. It may change in place what its own state
            owns. The model is reached through the context only, which counts; every random number comes from
            `batch.random`, or from the global generators, which the loop seeds anew before each step. Metrics are means
            over the batch, detached, shape (); the loop averages them over an epoch.
    """

    threat: ClassVar[bool]

    def init(self, context: Context) -> State:
        """The state before the first step."""

    def step(self, context: Context, state: State, batch: Batch) -> Outcome:
        """The mean loss of a batch, the next state, and what is worth telling about it."""


def learn_at(context: Context, adversarial: Tensor, labels: Tensor) -> tuple[Tensor, Metrics]:
    """Mean cross-entropy () at adversarial points (B, *F), and the share of them that is classified correctly."""
    logits = context.logits(adversarial)
    correct = logits.detach().argmax(dim=1) == labels
    return F.cross_entropy(logits, labels), {"robust_accuracy": correct.float().mean()}


def check_step_size(size: float | None, default: str) -> None:
    """Refuse a step that goes nowhere; `default` says what None means."""
    if size is not None and not size > 0.0:
        raise InputError(f"`step_size` must be above 0, or None for {default}; got {size}")


def check_mode(mode: str) -> None:
    """Refuse what is no mode of a module."""
    if mode not in ("train", "eval"):
        raise InputError(f"`mode` of the inner search must be train or eval; got {mode!r}")


def build(name: str, **params: Any) -> TrainingObjective:
    """An objective by its registry name, with its parameters.

    >>> build("pgd", steps=10).steps
    10
    """
    return cast(TrainingObjective, OBJECTIVES.build(name, **params))


def name_of(objective: TrainingObjective) -> str:
    """The registry name, or "module:Class" of an objective that is not registered.

    >>> name_of(build("standard"))
    'standard'
    """
    row = OBJECTIVES.row_of(objective)
    return f"{type(objective).__module__}:{type(objective).__qualname__}" if row is None else row.name


def params_of(objective: TrainingObjective) -> dict[str, Any]:
    """The objective's fields, as a recipe records them."""
    return dataclasses.asdict(objective) if dataclasses.is_dataclass(objective) else {}
