"""What an older version wrote, brought to the schema of today: one step from each schema to the next.

A run directory has two schemas, for what changes apart: `user_version` of its evidence (`audit.sqlite`) and `schema` of
its record (`record.json`). A step turns schema n, its place in the tuple counted from 1, into n + 1; today's schema is
the number behind the last step, so that no change can be made without one. What was asked is part of the evidence: a
new key of the request needs a step that writes what it was before it could be asked. Each change comes with a run
directory of the schema before it, kept under `tests/audits/kept`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trustbound.errors import RecordError

Document = dict[str, Any]


def _payload(evidence: sqlite3.Connection) -> None:
    """What one kind of task alone keeps of an example, as JSON."""
    evidence.execute("ALTER TABLE evidence ADD COLUMN payload TEXT NOT NULL DEFAULT '{}'")


def _purposes(evidence: sqlite3.Connection) -> None:
    """What the passes of a unit were for; of those that were made before it, nobody noted it."""
    evidence.execute("ALTER TABLE unit ADD COLUMN purposes TEXT NOT NULL DEFAULT '{}'")


def _calibration_by_threat(record: Document) -> Document:
    """Measured under every threat, where it had been measured under the first."""
    measured = record.pop("doubt")
    return {**record, "doubts": {} if measured is None else {record["brackets"][0]["threat"]: measured}}


EVIDENCE: tuple[Callable[[sqlite3.Connection], None], ...] = (_payload, _purposes)
RECORD: tuple[Callable[[Document], Document], ...] = (_calibration_by_threat,)

EVIDENCE_SCHEMA = 1 + len(EVIDENCE)
RECORD_SCHEMA = 1 + len(RECORD)


def migrate_evidence(evidence: sqlite3.Connection, path: Path) -> None:
    """Bring a run database, open without implicit transactions, to today's schema; each step is whole or not made.

    Raises      RecordError for a database of a newer version, which is left as it is.
    """
    schema = _known(evidence.execute("PRAGMA user_version").fetchone()[0], EVIDENCE_SCHEMA, path)
    for number, step in enumerate(EVIDENCE[schema - 1 :], start=schema + 1):
        evidence.execute("BEGIN IMMEDIATE")
        try:
            step(evidence)
            evidence.execute(f"PRAGMA user_version = {number}")
            evidence.execute("COMMIT")
        except BaseException:
            evidence.execute("ROLLBACK")
            raise


def migrate_record(record: Mapping[str, Any], path: Path) -> Document:
    """A record's document in today's schema.

    Raises      RecordError for a document of a newer version, and for one that is damaged.

    >>> old = {"schema": 1, "brackets": [{"threat": "linf:0.1"}], "doubt": {"n": 3}}
    >>> migrate_record(old, Path("record.json"))["doubts"]
    {'linf:0.1': {'n': 3}}
    """
    schema = _known(record.get("schema"), RECORD_SCHEMA, path)
    try:
        for step in RECORD[schema - 1 :]:
            record = step(dict(record))
    except (LookupError, TypeError) as error:
        raise RecordError(
            f"{path} must be a record of schema {schema}; it lacks {error}, it is damaged. Give the audit's command "
            "again to write it anew."
        ) from error
    return {**record, "schema": RECORD_SCHEMA}


def _known(schema: Any, today: int, path: Path) -> int:
    """A schema that there is a way from."""
    if type(schema) is not int or schema < 1:
        raise RecordError(
            f"{path} must say its schema, a number from 1; it says {schema!r}, it is damaged. Give the audit's command "
            "again to write it anew."
        )
    if schema > today:
        raise RecordError(
            f"{path} has schema {schema}, which a newer trustbound wrote, and this one knows schemas up to {today}: "
            "update trustbound to go on with it."
        )
    return schema
