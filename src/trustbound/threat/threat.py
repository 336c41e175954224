"""A threat: what may change × what counts as success × what the adversary can see."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustbound.errors import InputError
from trustbound.threat.goals import DECIMAL, Goal, Misclassify, parse_goal
from trustbound.threat.sets.ball import NormBall
from trustbound.threat.sets.columns import in_units
from trustbound.threat.sets.patch import Patch
from trustbound.threat.sets.perturbation_set import PerturbationSet
from trustbound.threat.sets.registry import SETS
from trustbound.threat.sets.transformations import Transformations

if TYPE_CHECKING:
    from trustbound.data.labelled import LabelledSet


class Access(enum.IntEnum):
    """What the adversary can see of the model, each level including the ones below it."""

    DECISIONS = 1
    SCORES = 2
    GRADIENTS = 3


@dataclass(frozen=True)
class Threat:
    """What the model is asked to withstand.

    Text form   SET[;goal=GOAL][;access=LEVEL], e.g. `linf:8/255`, `l2:inf`,
                `l0:20;goal=target:3;access=scores`, `rotation:30,translation:3`; of tables also `linf:5%` of each
                column's range, `linf:0.1*std` and `linf:columns`, see `resolved`.
                Numbers are plain decimals; a set's size may be a fraction of two. What is printed reads back as
                the same threat, to the last bit.
    Raises      InputError naming what came and what a threat reads like: also for a size that overflows or
                vanishes in float64 and for a part that is given twice.

    >>> threat = Threat.parse("linf:8/255")
    >>> str(threat), round(threat.perturbations.epsilon, 5)
    ('linf:8/255', 0.03137)
    """

    perturbations: PerturbationSet
    goal: Goal = field(default_factory=Misclassify)
    access: Access = Access.GRADIENTS

    def __post_init__(self) -> None:
        """Refuse parts of another kind: text is read by `parse`."""
        for name, wanted, fits in (
            ("perturbations", "a set of them, e.g. NormBall('linf', 0.1)", hasattr(self.perturbations, "around")),
            ("goal", "a goal, e.g. Target(3)", hasattr(self.goal, "margin") and not isinstance(self.goal, type)),
            ("access", "a level of Access, e.g. Access.SCORES", isinstance(self.access, Access)),
        ):
            if not fits:
                raise InputError(
                    f"`{name}` of a Threat must be {wanted}; got {getattr(self, name)!r}. Text is read by "
                    "Threat.parse('linf:8/255;goal=target:3;access=scores')."
                )

    def __str__(self) -> str:
        named = (
            self.goal if type(self.goal).__str__ is not object.__str__ or is_dataclass(self.goal) else self.goal.name
        )
        goal = "" if isinstance(self.goal, Misclassify) else f";goal={named}"
        access = "" if self.access is Access.GRADIENTS else f";access={self.access.name.lower()}"
        return f"{self.perturbations}{goal}{access}"

    def resolved(self, data: LabelledSet, columns: str | Path | Mapping[str, Any] | None = None) -> Threat:
        """The same threat with radii as numbers, where it is in units of a table's columns (`linf:5%`, `linf:0.1*std`).

        Parameters
            data        whose columns give the units.
            columns     what is said of single columns, {"age": {"radius": 5, "integer": true}, "sex": {"immutable":
                        true}}, or a .toml or .json file of it; a radius may be a number, "5%" or "0.1*std".

        Raises      InputError that names the column.
        """
        from trustbound.threat.sets.resolving import resolve

        return replace(self, perturbations=resolve(self.perturbations, data, columns))

    @classmethod
    def parse(cls, text: str | Threat) -> Threat:
        """Read the text form, or pass a threat through."""
        if isinstance(text, Threat):
            return text
        perturbations, *rest = (part.strip() for part in str(text).split(";"))
        goal: Goal = Misclassify()
        access = Access.GRADIENTS
        seen: set[str] = set()
        for part in rest:
            key, _, value = part.partition("=")
            if key in seen:
                raise InputError(f"a threat has one {key}; got another, {part!r}, in {str(text)!r}. Leave one out.")
            seen.add(key)
            if key == "goal":
                goal = parse_goal(value)
            elif key == "access" and value.lower() in _LEVELS:
                access = _LEVELS[value.lower()]
            else:
                raise InputError(
                    f"behind the set a threat may read ;goal=… and ;access=decisions|scores|gradients; got {part!r}"
                )
        return cls(_parse_set(perturbations), goal, access)


_LEVELS = {level.name.lower(): level for level in Access}
_NUMBER = re.compile(rf"({DECIMAL})(?:/({DECIMAL}))?", re.ASCII)


def _parse_set(text: str) -> PerturbationSet:
    parts = []
    for part in text.split(","):
        name, colon, size = part.partition(":")
        if name not in SETS.names:
            raise InputError(
                f"a threat begins with NAME:SIZE, one of {', '.join(row.example for row in SETS)}, or several of the "
                f"last kinds joined by commas; got {name!r}.{SETS.suggestion(name)}"
            )
        if not colon:
            example = SETS.find(name).example
            raise InputError(f"a threat reads NAME:SIZE, e.g. {example}; got {part!r} without a size")
        if (found := in_units(name, size, text)) is not None:
            return found
        parts.append((name, _size(size, text)))
    if len(parts) == 1 and parts[0][0] == Patch.name:
        return Patch(parts[0][1])
    if len(parts) == 1 and not SETS.find(parts[0][0]).combines:
        return NormBall(*parts[0])
    return Transformations(tuple(parts))


def _size(text: str, whole: str) -> float:
    if text == "inf":
        return math.inf
    if (match := _NUMBER.fullmatch(text)) is None:
        raise InputError(f"epsilon must be a number ≥ 0, a fraction like 8/255, or inf; got {text!r} in {whole!r}")
    top, bottom = float(match[1]), float(match[2] or 1)
    epsilon = top / bottom if bottom else math.nan
    # A size that is written as a number and comes out as infinity or as zero is another size.
    vanished = epsilon == 0.0 and re.search("[1-9]", match[1].lower().partition("e")[0]) is not None
    if not math.isfinite(epsilon) or vanished:
        raise InputError(
            "epsilon must be a number that float64 can hold, or inf for no limit but the box; got "
            f"{text!r} in {whole!r}, which would be {epsilon}"
        )
    return epsilon
