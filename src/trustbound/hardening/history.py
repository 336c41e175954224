"""What a training leaves behind: its epochs, its events, its cost; plain data that needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trustbound.record.codec import from_document, to_document
from trustbound.record.cost import Cost

if TYPE_CHECKING:
    from trustbound.hardening.recipe import Recipe
    from trustbound.model.wrapping import Model


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training examples.

    Parameters
        number          counted from 1; an epoch that was rolled back appears again under its number.
        attempt         0, and one more after each roll-back.
        kept            False for an epoch whose weights were thrown away.
        learning_rate   in the epoch's last step.
        loss, facts     means over the examples of the epoch, in train mode; facts are the objective's metrics.
        validation_accuracy     clean, eval mode, None without validation examples.
        probe_accuracy, probe_robust_accuracy   clean and under PGD, held-out training examples, None
                        without a probe.
        seconds         of training, without validation and probe.
    """

    number: int
    attempt: int
    kept: bool
    learning_rate: float
    loss: float
    facts: Mapping[str, float]
    validation_accuracy: float | None
    probe_accuracy: float | None
    probe_robust_accuracy: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something worth knowing that is no number of an epoch: a roll-back, an early stop, a resumption."""

    epoch: int
    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands, for whoever draws the bar.

    Parameters
        epoch, epochs   the current one, counted from 1, and how many there will be.
        step, steps     steps of this epoch that are done, and how many it has.
        loss            mean of the epoch so far.
        seconds, eta    spent by this call, and still to come at its pace; None before the first step.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    seconds: float
    eta: float | None


@dataclass(kw_only=True)
class Stand:
    """Where a training stands, apart from its tensors; plain data, part of the checkpoint.

    Parameters
        epoch, step     epochs kept so far; steps done in the current one.
        attempt         roll-backs so far.
        stopped         whether training ended before its last epoch.
        sums, seen      Σ over this epoch's examples of loss and metrics, and how many there were.
        examples        trained on so far, all attempts.
        cost, probe_cost    evaluations so far; seconds of training in `cost`, at the epoch's start.
    """

    epoch: int = 0
    step: int = 0
    attempt: int = 0
    stopped: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    seen: int = 0
    seconds: float = 0.0
    examples: int = 0
    cost: Cost = field(default_factory=Cost)
    probe_cost: Cost = field(default_factory=Cost)
    history: list[Epoch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def to_text(self) -> str:
        """JSON: every float reads back as the same bits."""
        return json.dumps(to_document(self), allow_nan=False)

    @classmethod
    def from_text(cls, text: str) -> Stand:
        """What `to_text` wrote.

        >>> Stand.from_text(Stand(epoch=3, sums={"loss": 0.1}).to_text()).sums
        {'loss': 0.1}
        """
        return from_document(cls, json.loads(text))


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A trained model and how it came to be.

    Parameters
        model       in eval mode; the object that was passed, its module's weights trained in place.
        history     one row an epoch, the rolled-back ones included.
        events      roll-backs, early stops, resumptions.
        cost        evaluations that moved the weights or searched for what to learn on, all attempts.
        probe_cost  evaluations of the probes, apart.
        examples    how many times an example was trained on: `cost.forwards / examples` is the cost per image.
    """

    model: Model
    recipe: Recipe
    history: tuple[Epoch, ...]
    events: tuple[Event, ...]
    cost: Cost
    probe_cost: Cost
    examples: int

    @property
    def evaluations_per_image(self) -> float:
        """Forward passes for each example that a step learned on; as many backward passes go with them.

        1 for standard training, 2 for fgsm-rs, steps + 1 for pgd, replays for free, steps + 3 for trades.
        """
        return self.cost.forwards / max(self.examples, 1)
