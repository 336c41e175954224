"""Finished audits side by side: whose bracket lies higher, and is the difference more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trustbound.record.audit import AuditRecord, Bracket
from trustbound.record.binomial import mcnemar


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two audits under one threat.

    Parameters
        gained, lost    examples that only the second, only the first keeps unbroken; None where the audits did not
                        see the same examples.
        probability     of a split at least this uneven if neither were better (exact McNemar, two-sided).
        apart           on the same examples the second's lower bound is above the first's upper bound: then it is
                        more robust on them, whatever attack comes.
    """

    threat: str
    first: Bracket
    second: Bracket
    names: tuple[str, str]
    gained: int | None
    lost: int | None
    probability: float | None
    apart: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The first audit against each other one.

    Parameters
        strangers   other audits that have no threat in common with the first: name, and the threats of both.
    """

    names: tuple[str, ...]
    clean: tuple[float, ...]
    differences: tuple[Difference, ...]
    strangers: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = ()

    def text(self) -> str:
        """For people."""
        rows = [f"{name}: clean accuracy {value:.1%}" for name, value in zip(self.names, self.clean, strict=True)]
        for one in self.differences:
            first, second = one.first, one.second
            rows.append(
                f"{one.threat}: {one.names[0]} [{first.lower:.1%}, {first.upper:.1%}], "
                f"{one.names[1]} [{second.lower:.1%}, {second.upper:.1%}]"
            )
            if one.probability is not None:
                rows.append(
                    f"  unbroken only in {one.names[1]}: {one.gained}, only in {one.names[0]}: {one.lost} "
                    f"(exact McNemar p = {one.probability:.2g})"
                )
            else:
                rows.append("  not the same examples: the brackets are not compared one by one")
            if one.apart:
                rows.append(f"  proven: {one.names[1]} is the more robust one on these examples")
        for name, own, other in self.strangers:
            rows.append(
                f"{self.names[0]} and {name} have no threat in common ({_listed(own)}; {_listed(other)}): nothing but "
                "their clean accuracy is compared. Audit both under one of these."
            )
        return "\n".join(rows)

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "names": list(self.names),
            "clean_accuracy": list(self.clean),
            "differences": [
                {
                    "threat": one.threat,
                    "names": list(one.names),
                    "first": [one.first.lower, one.first.upper],
                    "second": [one.second.lower, one.second.upper],
                    "gained": one.gained,
                    "lost": one.lost,
                    "probability": one.probability,
                    "apart": one.apart,
                }
                for one in self.differences
            ],
            "without_common_threat": [
                {"name": name, "threats": [list(own), list(other)]} for name, own, other in self.strangers
            ],
        }


def compare(records: Sequence[AuditRecord], names: Sequence[str]) -> Comparison:
    """Compare the first record with each other one, threat by threat."""
    differences = [
        _difference(records[0], record, threat.threat, (names[0], name))
        for record, name in zip(records[1:], names[1:], strict=True)
        for threat in records[0].brackets
        if any(bracket.threat == threat.threat for bracket in record.brackets)
    ]
    own, *others = [tuple(bracket.threat for bracket in record.brackets) for record in records]
    return Comparison(
        names=tuple(names),
        clean=tuple(record.clean_accuracy for record in records),
        differences=tuple(differences),
        strangers=tuple(
            (name, own, other) for name, other in zip(names[1:], others, strict=True) if not set(own) & set(other)
        ),
    )


def _listed(threats: Sequence[str]) -> str:
    return ", ".join(threats) or "none"


def _difference(first: AuditRecord, second: AuditRecord, threat: str, names: tuple[str, str]) -> Difference:
    ours, theirs = (
        next(bracket for bracket in record.brackets if bracket.threat == threat) for record in (first, second)
    )
    gained = lost = None
    probability = None
    if first.same_examples(second):
        before, after = first.standing(threat), second.standing(threat)
        gained = sum(after[index] and not before[index] for index in before)
        lost = sum(before[index] and not after[index] for index in before)
        probability = mcnemar(gained, lost)
    return Difference(
        threat=threat,
        first=ours,
        second=theirs,
        names=names,
        gained=gained,
        lost=lost,
        probability=probability,
        apart=probability is not None and theirs.lower > ours.upper,
    )
