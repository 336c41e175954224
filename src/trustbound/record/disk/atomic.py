"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from trustbound.errors import RecordError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, flush it to the disk, then rename it: whole or not at all.

    Raises      RecordError when the disk is full or the directory cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(scratch)
        with open(scratch, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(scratch, path)
        _flushed(path.parent)
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or error
        raise RecordError(
            f"{path} could not be written: {said}. What was finished before is intact; make room (or lift the "
            "file-size limit) and give the same command again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def _flushed(folder: Path) -> None:
    """Make a rename in a folder survive a power cut, where the platform lets folders be flushed."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
