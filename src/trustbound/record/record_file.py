"""A finished audit as JSON: a file of its run directory, and what programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trustbound.errors import RecordError
from trustbound.record.audit import AuditRecord
from trustbound.record.codec import from_document, to_document
from trustbound.record.disk.atomic import write_atomically
from trustbound.record.migrations import migrate_record

_SCORES = ("n", "accuracy", "nll", "brier", "ece", "ece_debiased", "ece_interval", "mean_confidence", "auroc", "aurc")


def write_record(run: str | Path, record: AuditRecord) -> None:
    """Write the record into a run directory, whole or not at all."""
    text = json.dumps(to_document(record), allow_nan=False)
    write_atomically(Path(run) / "record.json", lambda path: path.write_text(text, encoding="utf-8"))


def read_record(run: str | Path) -> AuditRecord:
    """The record of a finished audit, of this version or an older one.

    Raises      RecordError when the directory holds no finished audit, one that cannot be read, or a newer version's.
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
    return from_document(AuditRecord, migrate_record(document, path))


def json_view(record: AuditRecord) -> dict[str, Any]:
    """The record as `audit --json` prints it: the whole of it, with the calibration scores on the first level.

    Keys        schema, clean_accuracy, brackets, calibration, checks, cost, exit_code stay where they are; others
                may be added. `calibration` is that of the first threat, `calibrations` has one for each.
    """
    document: dict[str, Any] = to_document(record)
    calibrations = {threat: _scores(report) for threat, report in document.pop("doubts").items()}
    first = ("schema", "clean_accuracy", "brackets")
    return {
        **{name: document.pop(name) for name in first},
        "calibration": next(iter(calibrations.values()), None),
        "checks": document.pop("checks"),
        "cost": document.pop("cost"),
        "exit_code": document.pop("exit_code"),
        "calibrations": calibrations,
        **document,
    }


def _scores(report: dict[str, Any]) -> dict[str, Any]:
    """An assessment without its curves."""
    states: dict[str, Any] = {
        state: None if report[state] is None else {name: report[state][name] for name in _SCORES}
        for state in ("clean", "attacked")
    }
    return {**states, "temperature": report["temperature"], "conformal": report["conformal"]}
