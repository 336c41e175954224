"""Which part of a set is meant, where it has parts."""

from __future__ import annotations

from pathlib import Path

from trustbound.errors import InputError

#: Read where there are parts and none is named.
DEFAULT = "test"


class NoSplitsError(InputError):
    """A part was asked for by name, of a set that has none: reading all of it would hand out the same twice."""


def refuse_split(source: str | Path, split: str | None) -> None:
    """Refuse a named part of a set without parts.

    >>> refuse_split("table.csv", None)
    >>> refuse_split("table.csv", "train")
    Traceback (most recent call last):
    ...
    trustbound.data.readers.splits.NoSplitsError: table.csv has no parts; got split='train'. Leave it out ...
    """
    if split is not None:
        raise NoSplitsError(f"{source} has no parts; got split={split!r}. Leave it out to read all of it.")
