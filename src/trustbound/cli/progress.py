"""Progress with ETA, on stderr, for people."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bars:
    """One line per step: bar, count, elapsed, remaining; plain lines where stderr is no terminal."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, step: str, total: int) -> None:
        """A new line."""
        if self._progress.disable:
            self._console.print(f"{step}: {total} examples", highlight=False)
            return
        self._task = self._progress.add_task(step, total=total)

    def advance(self, count: int) -> None:
        """The current line moves on."""
        if self._task is not None:
            self._progress.advance(self._task, count)
