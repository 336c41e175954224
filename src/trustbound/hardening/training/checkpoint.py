"""Checkpoints that a crash cannot spoil: the old one stays whole until the new one is.

Written to a temporary file, fsynced, renamed, and the folder fsynced too. Read with `weights_only=True`: a
checkpoint is data, it cannot run code.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from trustbound.errors import RecordError

NAME = "checkpoint.pt"
#: Raised by one whenever the content changes its meaning.
FORMAT = 2


def save(run: Path, content: Mapping[str, Any]) -> None:
    """Replace the run's checkpoint by `content`: tensors and plain data only.

    Raises      RecordError when it cannot be written; the checkpoint before it is intact.
    """
    target, draft = run / NAME, run / f"{NAME}.{os.getpid()}.tmp"
    try:
        with draft.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
        _sync_folder(run)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise RecordError(
            f"the checkpoint {target} could not be written: {error}. The one before it is intact; free space "
            "or permissions, then give the same command again."
        ) from error


def load(run: Path) -> dict[str, Any] | None:
    """The run's checkpoint on the CPU, or None when there is none yet.

    Raises      RecordError when the file is damaged or of another format.
    """
    path = run / NAME
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RecordError(
            f"{path} must be a whole checkpoint; it cannot be read ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}). Train into another run "
            "directory, or start over with resume=False."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        came = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise RecordError(
            f"{path} must be a training checkpoint of format {FORMAT}; got {came!r}. Train into another run "
            "directory, or start over with resume=False."
        )
    return content


@contextlib.contextmanager
def opened(run: Path) -> Iterator[None]:
    """Make the run directory and keep every other training out of it; a killed process leaves no lock.

    Raises      RecordError when it cannot be made, or another process trains in it.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        handle = os.open(run / "training.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RecordError(f"the run directory must be writable; {run} is not: {error}. Choose another one.") from error
    try:
        _lock(handle, run)
        for draft in run.glob(f"{NAME}.*.tmp"):
            draft.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, run: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no advisory locks here: two trainings in one directory are the user's to avoid
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise RecordError(
            f"one training at a time can use a run directory; another process trains in {run}. Wait for it, "
            "or choose another one."
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
