"""A finished audit as a file of its run directory."""

from __future__ import annotations

import json
from pathlib import Path

from trustbound.errors import RecordError
from trustbound.record.audit import AuditRecord
from trustbound.record.disk.atomic import write_atomically
from trustbound.record.document import from_document, to_document


def write_record(run: str | Path, record: AuditRecord) -> None:
    """Write the record into a run directory, whole or not at all."""
    text = json.dumps(to_document(record), allow_nan=False)
    write_atomically(Path(run) / "record.json", lambda path: path.write_text(text, encoding="utf-8"))


def read_record(run: str | Path) -> AuditRecord:
    """The record of a finished audit.

    Raises      RecordError when the directory holds no finished audit, or one that cannot be read.
    """
    path = Path(run) / "record.json" if Path(run).is_dir() else Path(run)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(
            f"a finished audit has a record.json; {run} has none. Give the audit's command again to finish it."
        ) from error
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} must be a record that an audit wrote; it cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise RecordError(f"{path} must be a record that an audit wrote; it holds a {type(document).__name__}")
    return from_document(AuditRecord, document)
