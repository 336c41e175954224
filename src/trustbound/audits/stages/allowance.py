"""What an audit may still do within the time it was given: steps that pay least are left out, and named."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from trustbound.record.store import Store

#: Of the time that is given, the share that is planned with: prices are measured on a few examples.
PLANNED = 0.85

#: Of the examples that checks draw, the shares that they draw where the time is short; with none the model is not
#: asked.
SHARES = (1.0, 0.5, 0.25, 0.0)
LEAST_SHARE = 0.25

#: How many times the seconds that were left an audit may take before it says so.
LATE = 1.2


class Allowance(Protocol):
    """Whether a step can be afforded."""

    def affords(self, step: str, *, share: float = 1.0, part: str = "") -> bool:
        """Say whether a step of the plan is to be done, or a part of it that takes a share of its time."""

    def share(self, checks: str) -> float:
        """Of the examples that checks draw, the share that they are to draw."""


@dataclass(frozen=True)
class Unlimited:
    """Everything."""

    def affords(self, step: str, *, share: float = 1.0, part: str = "") -> bool:
        """Always."""
        return True

    def share(self, checks: str) -> float:
        """All of them."""
        return 1.0


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
    #: That the last checks drew, of the examples that checks draw.
    _drawn: float = 1.0

    def __post_init__(self) -> None:
        """The clock begins."""
        self._started = self.clock()

    def affords(self, step: str, *, share: float = 1.0, part: str = "") -> bool:
        """Whether it is needed or fits beside all that is needed after it; what was begun before is gone on with."""
        if (step in self.needed and not part) or self.store.begun(_evidence(step, part)):
            return True

        return bool(self.store.fact(f"afforded/{step}{part}", lambda: self._fits(step, share)))

    def share(self, checks: str) -> float:
        """As many as fit beside all that is needed after them, later checks with the same share counted."""

        def most() -> float:
            for share in SHARES[:-1]:
                self._drawn = share
                if self._fits(checks, share):
                    return share
            return SHARES[-1]

        name = f"share/{checks}"
        whole = self.store.begun(checks) and not self.store.has_fact(name)  # by whoever had more time
        self._drawn = 1.0 if whole else float(self.store.fact(name, most))
        return self._drawn

    def _fits(self, step: str, share: float) -> bool:
        """Whether a share of a step fits beside all that is needed after it."""
        expected = {
            name: seconds * (self._drawn if "/checks-" in name else 1.0) for name, seconds in self.expected.items()
        }
        names, whole = list(expected), sum(expected.values())
        at = names.index(step) if step in expected else -1
        spent, behind = self.clock() - self._started, sum(expected[name] for name in names[: at + 1])
        # Slower than announced so far: so is the rest.
        pace = min(max(spent / behind, 1.0), 5.0) if behind > 0.1 * whole else 1.0
        ours = [name for name in names if _threat(name) == _threat(step)]
        after = sum(expected[name] for name in ours if name in self.needed and names.index(name) > at)
        ends = sum(expected[name] for name in names[: names.index(ours[-1]) + 1]) if ours else whole
        limit = PLANNED * self.seconds * (ends / whole if whole else 1.0)
        return spent + pace * (share * self.expected.get(step, 0.0) + after) <= limit


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


def clocked(left: float | None, taken: float) -> list[str]:
    """What the clock says at the end of an audit that took so many seconds, in words; also where time was not kept.

    Parameters
        left    seconds that were left for it; None where no time was given.

    >>> clocked(None, 4.25), clocked(2.0, 31.0)[0]
    (['wall clock 4.2 s'], 'the time was not kept: 2 s were left, and what no audit leaves out took 31 s')
    """
    said = [f"wall clock {taken:.1f} s"]
    if left is not None and taken > LATE * max(left, 1.0):
        late = (
            f"the time was not kept: {max(left, 0.0):.0f} s were left, and what no audit leaves out took {taken:.0f} s"
        )
        return [late, *said]
    return said
