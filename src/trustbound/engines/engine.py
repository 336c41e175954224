"""What an engine is, and how one is chosen."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from trustbound.engines.registry import ENGINES, EngineRow
from trustbound.errors import InputError, MissingDependencyError

#: A pure function (unit, subject, *given) → result, which another process can import.
Execute = Callable[..., Any]


class Engine(Protocol):
    """Carries out units of work about one subject.

    What is told of the way, a worker that died say, is added to `events`, which whoever asks may empty.
    """

    events: list[str]

    def run(self, units: Sequence[Any], *given: Any) -> Iterator[Any]:
        """The result of each unit, in their order, whichever is finished first; an exception comes in its place.

        What is given besides goes to `execute` with each of these units, and travels once.
        """

    def close(self) -> None:
        """Let go of whatever was started."""


def started(
    name: str, execute: Execute, subject: Any, *, workers: int | None = None, address: str | None = None
) -> Engine:
    """An engine by its name, with the subject wherever units will be carried out.

    Parameters
        workers     processes that carry out units; as many as there are cores unless given.
        address     of a cluster that runs already.

    Raises      InputError for an unknown name, and for workers or an address where an engine has none;
                MissingDependencyError where its extra is not installed; UnsupportedError for a subject that cannot be
                taken there; EngineError where nothing can be started or reached.

    >>> engine = started("in-process", lambda unit, subject: unit * subject, 3)
    >>> list(engine.run([1, 2]))
    [3, 6]
    """
    row = ENGINES.find(name)
    if not row.workers:
        _check_alone(row, workers, address)
        engine: Engine = ENGINES.load(name)(execute, subject)
        return engine
    if workers is not None and (type(workers) is not int or workers < 1):
        raise InputError(f"`workers` must be a whole number ≥ 1, or None for one a core; got {workers!r}")
    if importlib.util.find_spec(row.extra) is None:
        raise MissingDependencyError(f"the engine {name!r} needs an extra: pip install 'trustbound[{row.extra}]'")
    engine = ENGINES.load(name)(execute, subject, workers=workers, address=address)
    return engine


def _check_alone(row: EngineRow, workers: int | None, address: str | None) -> None:
    """Refuse what an engine without workers cannot follow."""
    for option, value in (("workers", workers), ("address", address)):
        if value is not None:
            others = ", ".join(other.name for other in ENGINES if other.workers)
            raise InputError(
                f"`{option}` is for an engine with workers ({others}); got {value!r} for {row.name!r}. Leave it out, "
                "or choose another engine."
            )
