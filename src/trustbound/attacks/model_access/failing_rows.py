"""Which rows of a batch a model raises an exception on, found by halving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from trustbound.errors import BackwardError, ModelError

T = TypeVar("T")


@dataclass(eq=False)
class Halved(Generic[T]):
    """What the halves of a batch gave, in order; how many single rows raised; the largest batch that was answered."""

    parts: list[T] = field(default_factory=list)
    alone: int = 0
    answered: int = 0


def said(error: ModelError) -> str:
    """The model's own words, on one line."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0] or 'no message'}"


def halved(
    rows: slice, call: Callable[[slice], T], blank: Callable[[slice], T], found: Halved[T] | None = None
) -> Halved[T]:
    """Call for the halves of rows on which the model raised, and their halves; a single row gets `blank`.

    Where no single row raises, it was the size of the batch that the model could not serve.

    Raises      BackwardError as it comes: no part of a batch has a derivative that the whole has not.

    >>> def call(rows):
    ...     if rows.start <= 2 < rows.stop:
    ...         raise ModelError("row 2")
    ...     return list(range(rows.start, rows.stop))
    >>> halved(slice(0, 6), call, lambda rows: ["?"]).parts
    [[0], [1], ['?'], [3, 4, 5]]
    """
    found = Halved() if found is None else found
    if rows.stop - rows.start == 1:
        found.alone += 1
        found.parts.append(blank(rows))
        return found
    middle = (rows.start + rows.stop) // 2
    for half in (slice(rows.start, middle), slice(middle, rows.stop)):
        try:
            found.parts.append(call(half))
            found.answered = max(found.answered, half.stop - half.start)
        except BackwardError:
            raise
        except ModelError:
            halved(half, call, blank, found)
    return found
