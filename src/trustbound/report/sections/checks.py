"""Checks of the evaluation: one line for all, those that failed or warned in words, and every one as a row."""

from __future__ import annotations

from collections.abc import Sequence

from trustbound.record.audit import AuditRecord, Check
from trustbound.report.formatting import amount, number, share
from trustbound.report.sections.blocks import (
    Block,
    CheckGrid,
    CheckRow,
    Line,
    OpenCheck,
    OpenChecks,
    Remark,
    Section,
    Table,
    missing,
)
from trustbound.report.verdict import ordered_checks
from trustbound.report.wording import stopped

_READ = ("FAIL", "WARN", "PASS", "SKIP")
_MARK = {"FAIL": "✗", "WARN": "!", "PASS": "✓", "SKIP": "–"}
_UNCHECKED = "No checks were made: whether the upper bounds are to be believed is unknown."


def checks_line(record: AuditRecord) -> Line:
    """How the checks stand, in one line that is green only where none failed or warned."""
    if not record.checks:
        return Line(tone="warn", text=_UNCHECKED)
    tally = {name: sum(each.verdict == name for each in record.checks) for name in _READ}
    made = len(record.checks) - tally["SKIP"]
    rest = f"{tally['SKIP']} more did not apply or could not be made." if tally["SKIP"] else ""
    if tally["FAIL"] or tally["WARN"]:
        said = [f"{tally[name]} {word}" for name, word in (("FAIL", "failed"), ("WARN", "warned")) if tally[name]]
        text = f"Of {amount(made, 'check')} of this evaluation {' and '.join(said)}, {tally['PASS']} passed."
        return Line(tone="fail" if tally["FAIL"] else "warn", text=text, rest=rest)
    return Line(tone="pass", text=f"All {amount(made, 'check')} of this evaluation passed.", rest=rest)


def checks_section(record: AuditRecord) -> Section:
    """The line, and below it only what has to be read: failures and warnings, worst first."""
    blocks: list[Block] = [checks_line(record) if record.checks else missing(_UNCHECKED)]
    names = dict.fromkeys(each.name for each in ordered_checks(record.checks) if each.verdict in ("FAIL", "WARN"))
    if names:
        blocks.append(OpenChecks(checks=tuple(_open(name, record.checks) for name in names)))
    return Section(id="checks", title="Checks of the evaluation", blocks=tuple(blocks))


def all_checks_section(record: AuditRecord) -> Section:
    """Every check in a row, every threat in a column."""
    title = "All checks, one in each row"
    if not record.checks:
        return Section(id="all-checks", title=title, blocks=(missing(_UNCHECKED),), folded=True)
    threats = tuple(dict.fromkeys(each.threat for each in record.checks if each.threat))
    ordered = ordered_checks(record.checks)
    names = dict.fromkeys(each.name for each in ordered)
    words = Table(
        caption="What every check found, in words.",
        head=("check", "threat", "verdict", "finding"),
        rows=tuple((each.name, each.threat or "–", each.verdict, stopped(each.finding)) for each in ordered),
        words=(0, 1, 2, 3),
        folded=True,
    )
    grid = CheckGrid(threats=threats, rows=tuple(_row(name, record.checks, threats) for name in names))
    return Section(id="all-checks", title=title, blocks=(grid, words), folded=True)


def check_value(check: Check) -> str:
    """The number a check went by, with its unit in words; empty where there is none.

    >>> check_value(Check(name="a", verdict="PASS", severity="note", value=0.25, finding="", unit="share of steps"))
    '25.0\\xa0% (share of steps)'
    """
    shown, long = _shown(check), len(check.unit.split()) > 2
    return f"{shown} ({check.unit})" if shown and long else f"{shown} {check.unit}".strip() if shown else ""


def _shown(check: Check) -> str:
    """The number alone: shares in per cent."""
    if check.value is None:
        return ""
    return share(check.value) if check.unit.startswith("share") and 0 <= check.value <= 1 else number(check.value)


def _open(name: str, checks: Sequence[Check]) -> OpenCheck:
    """A check that is to be read, under every threat where it failed or warned."""
    ours = [each for each in ordered_checks(tuple(checks)) if each.name == name and each.verdict in ("FAIL", "WARN")]
    return OpenCheck(
        name=name,
        verdict=ours[0].verdict,
        severity=ours[0].severity,
        remarks=tuple(
            Remark(
                threat=each.threat,
                value=check_value(each) if each.value is not None else "",
                finding=stopped(each.finding),
            )
            for each in ours
        ),
        advice=tuple(dict.fromkeys(stopped(each.advice) for each in ours if each.advice)),
    )


def _row(name: str, checks: Sequence[Check], threats: Sequence[str]) -> CheckRow:
    """All cells of a check; one without a threat speaks for all of them."""
    ours = [each for each in checks if each.name == name]
    unit = next((each.unit for each in ours if each.unit), "")
    of = {
        each.threat: (each.verdict, f"{_MARK.get(each.verdict, '?')} {_shown(each) or each.verdict}") for each in ours
    }
    if "" in of:
        return CheckRow(name=name, unit=unit, cells=(of[""],))
    return CheckRow(name=name, unit=unit, cells=tuple(of.get(threat, ("SKIP", "not made")) for threat in threats))
