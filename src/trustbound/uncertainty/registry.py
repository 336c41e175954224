"""The methods of this room by name, without importing torch, for the command line and the documents."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method: name, where it lives, one line about it, whether it is fitted on calibration examples."""

    name: str
    target: str
    line: str
    fitted: bool


METHODS = Registry(
    "an uncertainty method",
    MethodRow(
        name="softmax",
        target="trustbound.uncertainty.softmax:calibration_scores",
        line="NLL, Brier, calibration error, AUROC and risk-coverage of the softmax confidence",
        fitted=False,
    ),
    MethodRow(
        name="temperature",
        target="trustbound.uncertainty.temperature:fit_temperature",
        line="one number that divides the logits, or the advice not to scale",
        fitted=True,
    ),
    MethodRow(
        name="threshold",
        target="trustbound.uncertainty.conformal:Threshold",
        line="split conformal sets: every class above one probability; the smallest sets on average",
        fitted=True,
    ),
    MethodRow(
        name="aps",
        target="trustbound.uncertainty.conformal:Aps",
        line="split conformal sets: the most probable classes up to one mass, randomised; sizes adapt",
        fitted=True,
    ),
)
