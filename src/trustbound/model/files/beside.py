"""A pickle names its classes and does not hold them: their source is looked for beside the file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trustbound.errors import InputError


@contextmanager
def importable(path: Path) -> Iterator[None]:
    """Let modules in the folder of a file be imported, after those that are installed.

    >>> with importable(Path("elsewhere/net.pt")):
    ...     sys.path[-1].endswith("elsewhere")
    True
    """
    folder = str(path.resolve().parent)
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def without_source(path: Path, error: Exception) -> InputError:
    """What to do about a trusted pickle whose classes are not found.

    >>> print(without_source(Path("net.pt"), ModuleNotFoundError("No module named 'nets'")))
    net.pt names code that cannot be imported here (No module named 'nets'). Put the .py file that defines it beside ...
    """
    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    script = " Classes of a script, __main__, are found by nobody else." if "__main__" in first else ""
    return InputError(
        f"{path} names code that cannot be imported here ({first[:200]}). Put the .py file that defines it beside it, "
        f"or install the package.{script} Better: save the weights alone, and name the function that builds the "
        f"network: path/file.py:function --weights {path}."
    )
