"""What an audit may still do within the time it was given: steps that pay least are left out, and named."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from trustbound.record.store import Store

#: Of the time that is given, the share that is planned with: prices are measured on a few examples.
PLANNED = 0.85


class Allowance(Protocol):
    """Whether a step can be afforded."""

    def affords(self, step: str, *, share: float = 1.0, part: str = "") -> bool:
        """Say whether a step of the plan is to be done, or a part of it that takes a share of its time."""


@dataclass(frozen=True)
class Unlimited:
    """Everything."""

    def affords(self, step: str, *, share: float = 1.0, part: str = "") -> bool:
        """Always."""
        return True


@dataclass(eq=False)
class TimeLimit:
    """As much as fits before a limit, what the audit cannot do without counted first; each threat has its share.

    Every answer is written down as a fact: an audit that goes on leaves out the same.

    Parameters
        expected    seconds by step, in order.
        needed      names of steps that an audit cannot do without: the first search, controls, checks.
        seconds     that the audit may take, from when this was made.
    """

    store: Store
    expected: Mapping[str, float]
    needed: frozenset[str]
    seconds: float
    clock: Callable[[], float] = time.perf_counter
    _started: float = field(default=0.0)

    def __post_init__(self) -> None:
        """The clock begins."""
        self._started = self.clock()

    def affords(self, step: str, *, share: float = 1.0, part: str = "") -> bool:
        """Whether it fits beside all that is needed after it; what was begun before is gone on with."""
        if self.store.begun(_evidence(step, part)):
            return True

        def fits() -> bool:
            names, whole = list(self.expected), sum(self.expected.values())
            at = names.index(step) if step in self.expected else -1
            spent, behind = self.clock() - self._started, sum(self.expected[name] for name in names[: at + 1])
            # Slower than announced so far: so is the rest.
            pace = min(max(spent / behind, 1.0), 5.0) if behind > 0.1 * whole else 1.0
            ours = [name for name in names if _threat(name) == _threat(step)]
            after = sum(self.expected[name] for name in ours if name in self.needed and names.index(name) > at)
            ends = sum(self.expected[name] for name in names[: names.index(ours[-1]) + 1]) if ours else whole
            most = PLANNED * self.seconds * (ends / whole if whole else 1.0)
            return spent + pace * (share * self.expected.get(step, 0.0) + after) <= most

        return bool(self.store.fact(f"afforded/{step}{part}", fits))


def _evidence(step: str, part: str) -> str:
    """How the names of the steps begin that a line of the plan, or a part of it, is kept under."""
    threat, _, line = step.rpartition("/")
    if line == "rounds":
        return f"{threat}/round{part or ''}-"
    if line == "curve-runs":
        return f"{threat}/curve-attack{part}"
    if line.startswith("curve-proof-"):
        return f"{step}-"
    return step if part in ("", "-1") else f"{step}{part}"


def _threat(step: str) -> str:
    return step.rpartition("/")[0]
