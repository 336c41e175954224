"""One unit after another, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trustbound.engines.engine import Execute


class InProcess:
    """Carries out each unit when its result is asked for."""

    def __init__(self, execute: Execute, subject: Any) -> None:
        self._execute, self._subject = execute, subject
        self.events: list[str] = []

    def run(self, units: Sequence[Any], *given: Any) -> Iterator[Any]:
        """The result of each unit, in their order."""
        return (self._execute(unit, self._subject, *given) for unit in units)

    def close(self) -> None:
        """Nothing was started."""
