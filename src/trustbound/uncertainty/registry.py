"""The methods of this room by name, without importing torch, for the command line and the documents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DoubtRow:
    """One method: name, where it lives, one line about it, whether it is fitted on calibration examples.

    >>> [row.name for row in DOUBT_ROWS]
    ['softmax', 'temperature', 'threshold', 'aps']
    """

    name: str
    reference: str
    summary: str
    fitted: bool


DOUBT_ROWS: tuple[DoubtRow, ...] = (
    DoubtRow(
        name="softmax",
        reference="trustbound.uncertainty.softmax:doubt",
        summary="NLL, Brier, calibration error, AUROC and risk-coverage of the softmax confidence",
        fitted=False,
    ),
    DoubtRow(
        name="temperature",
        reference="trustbound.uncertainty.temperature:fit_temperature",
        summary="one number that divides the logits, or the advice not to scale",
        fitted=True,
    ),
    DoubtRow(
        name="threshold",
        reference="trustbound.uncertainty.conformal:Threshold",
        summary="split conformal sets: every class above one probability; the smallest sets on average",
        fitted=True,
    ),
    DoubtRow(
        name="aps",
        reference="trustbound.uncertainty.conformal:Aps",
        summary="split conformal sets: the most probable classes up to one mass, randomised; sizes adapt",
        fitted=True,
    ),
)
