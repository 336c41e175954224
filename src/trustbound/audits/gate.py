"""Thresholds that a release must meet."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.errors import InputError
from trustbound.record.audit import AuditRecord


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Least values that are accepted, each None where nothing is asked.

    Parameters
        clean       clean accuracy.
        upper       unbroken share, of every threat.
        lower       certified share, of every threat.
        threat      the one threat that is asked about; all of them when empty.
    """

    clean: float | None = None
    upper: float | None = None
    lower: float | None = None
    threat: str = ""

    def __post_init__(self) -> None:
        """Refuse what no share can be compared with."""
        for name in ("clean", "upper", "lower"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise InputError(f"the threshold `{name}` must lie in [0, 1]; got {value}")


def missed(record: AuditRecord, thresholds: Thresholds) -> list[str]:
    """What the record misses, in words; empty when it passes.

    Raises      InputError when the threat asked about was not audited.
    """
    brackets = [bracket for bracket in record.brackets if thresholds.threat in ("", bracket.threat)]
    if not brackets:
        audited = ", ".join(bracket.threat for bracket in record.brackets)
        raise InputError(f"the threat must be one that was audited ({audited}); got {thresholds.threat!r}")
    wanted = [("clean accuracy", record.clean_accuracy, thresholds.clean)]
    for bracket in brackets:
        wanted.append((f"{bracket.threat}: unbroken share", bracket.upper, thresholds.upper))
        wanted.append((f"{bracket.threat}: certified share", bracket.lower, thresholds.lower))
    return [
        f"missed: {name} is {value:.4f}, below {least:.4f}"
        for name, value, least in wanted
        if least is not None and value < least
    ]
