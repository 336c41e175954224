"""A recipe: every number that decides which weights come out, as plain frozen data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from trustbound.errors import InputError, UnsupportedError
from trustbound.hardening.objectives import Standard, TrainingObjective, build, name_of, params_of
from trustbound.hardening.probe import Probe
from trustbound.hardening.registry import OBJECTIVES
from trustbound.hardening.training.batches import Augmentation
from trustbound.hardening.training.optimizer import OPTIMIZERS, SCHEDULES
from trustbound.threat import Misclassify, Threat

PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, complete: the same recipe, data, model and device give the same weights.

    Parameters
        objective       what to do well on: a registry name or an objective with its parameters.
        threat          what to train against, a Threat or its text form; None for plain training.
        epochs          passes over the training examples.
        batch_size      examples per step, over all processes together.
        optimizer       sgd (with `momentum`) or adam (decoupled weight decay).
        learning_rate   the schedule's peak.
        schedule        constant, cosine, one-cycle or cyclic, each over the whole run.
        weight_decay    of every trained weight.
        augmentation    random shifts and mirror images.
        probe           PGD probe after each epoch and its roll-back; used when there is a threat; None
                        trains without one.
        seed            of order, augmentation, starts, dropout. The initial weights are the model's own.
        precision       32-true, or bf16-mixed.
        devices         processes that share each batch, started by torchrun.

    Raises      InputError naming the field; UnsupportedError for a goal that training does not defend.

    >>> recipe = Recipe(objective="pgd", threat="linf:0.1", epochs=3)
    >>> recipe.objective
    PGDTraining(steps=7, step_size=None, random_start=True, mode='train')
    >>> Recipe.from_json(recipe.to_json()) == recipe
    True
    """

    objective: TrainingObjective | str = field(default_factory=Standard)
    threat: Threat | str | None = None
    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    schedule: str = "one-cycle"
    weight_decay: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    probe: Probe | None = field(default_factory=Probe)
    seed: int = 0
    precision: str = "32-true"
    devices: int = 1

    def __post_init__(self) -> None:
        """Read names and text forms, then refuse what cannot be trained."""
        if isinstance(self.objective, str):
            object.__setattr__(self, "objective", build(self.objective))
        if isinstance(self.threat, str):
            object.__setattr__(self, "threat", Threat.parse(self.threat))
        if not isinstance(self.objective, TrainingObjective):
            raise InputError(
                "`objective` must be a registry name or an object with `threat`, `init` and `step`; got "
                f"{type(self.objective).__name__}. `trustbound list objectives` shows the names."
            )
        _check_threat(name_of(self.objective), self.objective, self.threat)
        for name in ("epochs", "batch_size", "devices"):
            _whole(name, getattr(self, name), least=1)
        _whole("seed", self.seed, least=0)
        _number("learning_rate", self.learning_rate, above=0.0)
        _number("weight_decay", self.weight_decay, least=0.0)
        if not 0.0 <= self.momentum < 1.0:
            raise InputError(f"`momentum` must lie in [0, 1); got {self.momentum!r}")
        if self.optimizer != "sgd" and self.momentum != 0.9:
            raise InputError(f"`momentum` belongs to sgd; got {self.momentum!r} with {self.optimizer}. Leave it out.")
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("schedule", self.schedule, tuple(SCHEDULES))
        _one_of("precision", self.precision, PRECISIONS)
        _whole("augmentation.shift", self.augmentation.shift, least=0)

    @property
    def aim(self) -> TrainingObjective:
        """The objective, built."""
        return cast(TrainingObjective, self.objective)

    @property
    def against(self) -> Threat | None:
        """The threat, read."""
        return cast("Threat | None", self.threat)

    def to_json(self) -> dict[str, Any]:
        """Plain data that a record can hold and `from_json` reads back."""
        plain = {
            name: getattr(self, name)
            for name in (row.name for row in dataclasses.fields(self))
            if name not in ("objective", "threat", "augmentation", "probe")
        }
        return {
            "objective": {"name": name_of(self.aim), **params_of(self.aim)},
            "threat": None if self.threat is None else str(self.threat),
            "augmentation": dataclasses.asdict(self.augmentation),
            "probe": None if self.probe is None else dataclasses.asdict(self.probe),
            **plain,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Recipe:
        """Read what `to_json` wrote; objectives by registry name only, so that nothing is imported blindly."""
        known = {row.name for row in dataclasses.fields(cls)}
        if unknown := sorted(set(content) - known):
            raise InputError(f"a recipe has the fields {', '.join(sorted(known))}; got {', '.join(unknown)}")
        given = dict(content)
        if isinstance(objective := given.get("objective"), Mapping):
            given["objective"] = build(**objective)
        if isinstance(augmentation := given.get("augmentation"), Mapping):
            given["augmentation"] = Augmentation(**augmentation)
        if isinstance(probe := given.get("probe"), Mapping):
            given["probe"] = Probe(**probe)
        return cls(**given)


def _check_threat(name: str, objective: TrainingObjective, threat: Any) -> None:
    if threat is not None and not isinstance(threat, Threat):
        raise InputError(f"`threat` must be a Threat or its text form, e.g. linf:0.1; got {threat!r}")
    if objective.threat and threat is None:
        raise InputError(f"{name} trains against a threat; got none. Pass threat='linf:0.1', say.")
    if not objective.threat and threat is not None:
        raise InputError(
            f"{name} does not use a threat; got {threat}. Leave it out, or choose an objective that does: "
            f"{', '.join(row.name for row in OBJECTIVES if row.threat)}."
        )
    if threat is not None and not isinstance(threat.goal, Misclassify):
        raise UnsupportedError(
            f"training defends against misclassification; the threat's goal is {threat.goal}. Leave the goal "
            "out to train, and audit with it."
        )


def _whole(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"`{name}` must be a whole number, at least {least}; got {value!r}")


def _number(name: str, value: Any, *, least: float | None = None, above: float | None = None) -> None:
    plain = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not plain or (least is not None and value < least) or (above is not None and value <= above):
        limit = f"at least {least:g}" if least is not None else f"above {above:g}"
        raise InputError(f"`{name}` must be a finite number {limit}; got {value!r}")


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"`{name}` must be one of {', '.join(allowed)}; got {value!r}")
