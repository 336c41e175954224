"""Where a loaded model came from: every file with its digest, and whether loading ran code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustbound.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What `load_model` read, kept as `model.origin` for the record.

    spec, arguments   as given (arguments after those stored in the weights file were filled in).
    files             (path, SHA-256) of each file read, in the order of reading.
    executed          the code that loading ran: a .py file, an imported function, a program file, or a
                      pickle that was trusted; empty for weights alone.
    """

    spec: str
    arguments: dict[str, Any]
    files: tuple[tuple[str, str], ...]
    executed: tuple[str, ...]

    @property
    def sha256(self) -> str | None:
        """The one file's digest; of several, the digest of the lines `digest  file name`."""
        if len(self.files) < 2:
            return self.files[0][1] if self.files else None
        lines = "".join(f"{digest}  {Path(path).name}\n" for path, digest in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Digest of a file, which must exist and be readable."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"the file {str(path)!r} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()
