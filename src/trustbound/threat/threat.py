"""A threat: what may change × what counts as success × what the adversary can see."""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass, field

from trustbound.errors import InputError
from trustbound.threat.goals import Goal, Misclassify, parse_goal
from trustbound.threat.sets.ball import NORMS, NormBall


class Access(enum.IntEnum):
    """What the adversary can see of the model, each level including the ones below it."""

    DECISIONS = 1
    SCORES = 2
    GRADIENTS = 3


@dataclass(frozen=True)
class Threat:
    """What the model is asked to withstand.

    Text form   SET[;goal=GOAL][;access=LEVEL], e.g. `linf:8/255`, `l2:inf`,
                `l0:20;goal=target:3;access=scores`.
    Raises      InputError naming what came and what a threat reads like.

    >>> threat = Threat.parse("linf:8/255")
    >>> str(threat), round(threat.allowed.epsilon, 5)
    ('linf:8/255', 0.03137)
    """

    allowed: NormBall
    goal: Goal = field(default_factory=Misclassify)
    access: Access = Access.GRADIENTS

    def __str__(self) -> str:
        goal = "" if isinstance(self.goal, Misclassify) else f";goal={self.goal}"
        access = "" if self.access is Access.GRADIENTS else f";access={self.access.name.lower()}"
        return f"{self.allowed}{goal}{access}"

    @classmethod
    def parse(cls, text: str | Threat) -> Threat:
        """Read the text form, or pass a threat through."""
        if isinstance(text, Threat):
            return text
        allowed, *rest = (part.strip() for part in str(text).split(";"))
        goal: Goal = Misclassify()
        access = Access.GRADIENTS
        for part in rest:
            key, _, value = part.partition("=")
            if key == "goal":
                goal = parse_goal(value)
            elif key == "access" and value.upper() in Access.__members__:
                access = Access[value.upper()]
            else:
                raise InputError(
                    f"behind the set a threat may read ;goal=… and ;access=decisions|scores|gradients; got {part!r}"
                )
        return cls(_parse_set(allowed), goal, access)


_DECIMAL = r"\d*\.?\d+(?:e[+-]?\d+)?"
_NUMBER = re.compile(rf"(?P<top>{_DECIMAL})(?:/(?P<bottom>{_DECIMAL}))?", re.IGNORECASE)


def _parse_set(text: str) -> NormBall:
    norm, colon, size = text.partition(":")
    if norm not in NORMS or not colon:
        raise InputError(
            f"a threat reads NORM:EPSILON with NORM one of {', '.join(NORMS)}, e.g. linf:8/255, l2:0.5, "
            f"l0:20 or l2:inf; got {text!r}"
        )
    if size == "inf":
        return NormBall(norm, math.inf)
    match = _NUMBER.fullmatch(size)
    if match is None or (match["bottom"] is not None and float(match["bottom"]) == 0.0):
        raise InputError(f"epsilon must be a number ≥ 0, a fraction like 8/255, or inf; got {size!r} in {text!r}")
    return NormBall(norm, float(match["top"]) / float(match["bottom"] or 1))
