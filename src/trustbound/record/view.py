"""The public JSON of an audit: what programs read."""

from __future__ import annotations

from typing import Any

from trustbound.record.audit import AuditRecord
from trustbound.record.document import to_document

_SCORES = ("n", "accuracy", "nll", "brier", "ece", "ece_debiased", "ece_interval", "mean_confidence", "auroc", "aurc")


def json_view(record: AuditRecord) -> dict[str, Any]:
    """The record as `audit --json` prints it: the whole of it, with the calibration scores on the first level.

    Keys        schema, clean_accuracy, brackets, calibration, checks, cost, exit_code stay where they are; others
                may be added.
    """
    document: dict[str, Any] = to_document(record)
    doubt = document.pop("doubt")
    calibration = None
    if doubt is not None:
        calibration = {
            state: None if doubt[state] is None else {name: doubt[state][name] for name in _SCORES}
            for state in ("clean", "attacked")
        }
        calibration["temperature"] = doubt["temperature"]
        calibration["conformal"] = doubt["conformal"]
    first = ("schema", "clean_accuracy", "brackets")
    return {
        **{name: document.pop(name) for name in first},
        "calibration": calibration,
        "checks": document.pop("checks"),
        "cost": document.pop("cost"),
        "exit_code": document.pop("exit_code"),
        **document,
    }
