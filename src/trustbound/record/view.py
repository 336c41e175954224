"""The public JSON of an audit: what programs read."""

from __future__ import annotations

from typing import Any

from trustbound.record.audit import AuditRecord
from trustbound.record.document import to_document

_SCORES = ("n", "accuracy", "nll", "brier", "ece", "ece_debiased", "ece_interval", "mean_confidence", "auroc", "aurc")


def json_view(record: AuditRecord) -> dict[str, Any]:
    """The record as `audit --json` prints it: the whole of it, with the calibration scores on the first level.

    Keys        schema, clean_accuracy, brackets, calibration, checks, cost, exit_code stay where they are; others
                may be added. `calibration` is that of the first threat, `calibrations` has one for each.
    """
    document: dict[str, Any] = to_document(record)
    calibrations = {threat: _scores(doubt) for threat, doubt in document.pop("doubts").items()}
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


def _scores(doubt: dict[str, Any]) -> dict[str, Any]:
    """An assessment without its curves."""
    states: dict[str, Any] = {
        state: None if doubt[state] is None else {name: doubt[state][name] for name in _SCORES}
        for state in ("clean", "attacked")
    }
    return {**states, "temperature": doubt["temperature"], "conformal": doubt["conformal"]}
