"""Progress of a whole audit with the time that is left, on stderr, for people."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

#: Seconds between two lines where stderr is no terminal.
EVERY = 10.0

#: Steps that a search makes by number, and the line of the plan that announces them.
_NUMBERED = (
    (re.compile(r"/round-.*"), "/rounds"),
    (re.compile(r"/curve-attack-\d+"), "/curve-runs"),
    (re.compile(r"/(curve-proof-.+?|proof-.+?)(-rest|-control)?(-\d+)?$"), r"/\1"),
    (re.compile(r"/trial-smooth$"), "/first"),
    (re.compile(r"-\d+$"), ""),
)


def announced(step: str, known: Mapping[str, float]) -> str:
    """The line of a plan under which a step was announced; the step itself where there is none.

    >>> announced("linf:0.1/curve-proof-crown-rest-3", {"linf:0.1/curve-proof-crown": 9.0})
    'linf:0.1/curve-proof-crown'
    """
    if step in known:
        return step
    for pattern, line in _NUMBERED:
        name = pattern.sub(line, step)
        if name in known:
            return name
    return step


#: Lines that several steps may belong to: how many is known only when the last is done.
_SEVERAL = re.compile(r"/(rounds|curve-runs|(curve-)?proof-.+)$")


@dataclass(eq=False)
class Remaining:
    """Seconds that are left of an audit: what was announced, at the pace that was seen.

    A step of a line that several may belong to is no more of it than its time is of what was announced: what is left of
    the line is there for the next block.

    >>> left = Remaining({"clean": 1.0, "linf:0.1/first": 3.0}, clock=iter([0.0, 1.0, 2.0]).__next__)
    >>> left.begin("clean", 10)
    >>> left.advance(5)
    >>> left.advance(5)
    >>> left.seconds()
    6.0
    """

    expected: Mapping[str, float]
    clock: Callable[[], float] = time.perf_counter
    _line: str = ""
    _share: float = 0.0
    #: Of the step under way: what its line was done by, how much of it is done, and when the line began.
    _base: float = 0.0
    _count: int = 0
    _total: int = 1
    _line_started: float = 0.0
    _started: float | None = None
    _behind: set[str] = field(default_factory=set)
    _worked: float = 0.0
    _pace: float = 1.0

    def begin(self, step: str, total: int) -> None:
        """A step starts; what was announced before it and not begun is over too."""
        now = self.clock()
        line = announced(step, self.expected)
        if self._started is None:
            self._started = now
        if line != self._line:
            names = list(self.expected)
            self._behind |= {*names[: names.index(line) if line in self.expected else 0], self._line}
            self._worked += self._share * self.expected.get(self._line, 0.0)
            self._share, self._line_started = 0.0, now
        self._line, self._base, self._count, self._total = line, self._share, 0, max(total, 1)

    def advance(self, count: int) -> None:
        """Some of the step's examples are finished."""
        self._count += count
        share = self._base + (1.0 - self._base) * min(1.0, self._count / self._total)
        if _SEVERAL.search(self._line) and self.expected.get(self._line):
            passed = (self.clock() - self._line_started) / (self._pace * self.expected[self._line])
            share = min(share, max(passed, self._share))
        self._share = share
        worked = self._worked + self._share * self.expected.get(self._line, 0.0)
        # A tenth of what was announced is enough to tell how fast this machine is now.
        if self._started is not None and worked >= 0.1 * sum(self.expected.values()) > 0:
            self._pace = min(max((self.clock() - self._started) / worked, 0.2), 5.0)

    def seconds(self) -> float:
        """What is left."""
        ahead = sum(seconds for name, seconds in self.expected.items() if name not in self._behind)
        return self._pace * (ahead - self._share * self.expected.get(self._line, 0.0))

    def share(self) -> float:
        """Of the whole audit, how much is done."""
        whole = sum(self.expected.values())
        return 1.0 - self.seconds() / (self._pace * whole) if whole else 0.0


class AuditProgress:
    """One line for the whole audit; a line every ten seconds where stderr is no terminal."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._progress = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._remaining = Remaining({})
        self._step, self._done, self._total = "", 0, 0
        self._told = -EVERY

    def __enter__(self) -> AuditProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """What each step is likely to take."""
        self._remaining = Remaining(dict(seconds))

    def begin(self, step: str, total: int) -> None:
        """A step starts on so many examples."""
        self._remaining.begin(step, total)
        self._step, self._done, self._total = step, 0, total
        self._tell()

    def advance(self, count: int) -> None:
        """Some of them are finished."""
        self._remaining.advance(count)
        self._done += count
        self._tell()

    def _tell(self) -> None:
        at, share, left = f"{self._step}: {self._done} of {self._total}", self._remaining.share(), ""
        if self._remaining.expected:
            left = f"about {duration(self._remaining.seconds())} left"
        if not self._progress.disable:
            if self._task is None:
                self._task = self._progress.add_task(at, total=100, left=left)
            self._progress.update(self._task, completed=100 * share, description=at, left=left)
        elif time.perf_counter() - self._told >= EVERY:
            self._told = time.perf_counter()
            told = f"; {100 * share:.0f} % of the audit, {left}" if left else ""
            self._console.print(f"{at}{told}", highlight=False)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(7.2), duration(95), duration(4000)
    ('10 s', '2 min', '1.1 h')
    """
    if seconds < 55:
        return f"{10 * max(1, math.ceil(seconds / 10))} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
