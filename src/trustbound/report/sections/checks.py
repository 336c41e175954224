"""Checks of the evaluation, and how to reproduce it."""

from __future__ import annotations

from trustbound.record.audit import AuditRecord, Check
from trustbound.report.formatting import amount, count, number
from trustbound.report.sections.blocks import (
    Block,
    Cell,
    Checks,
    Code,
    Items,
    Listing,
    Paragraph,
    Section,
    Table,
    missing,
)
from trustbound.report.verdict import ordered_checks

_READ = ("FAIL", "WARN", "PASS", "SKIP")
_EXIT = {
    0: "done; no threshold was missed",
    1: "a threshold missed",
    2: "wrong usage or input",
    3: "finished but not to be trusted",
}


def checks_section(record: AuditRecord) -> Section:
    """All checks, worst first."""
    title = "Checks of the evaluation"
    if not record.checks:
        return Section(
            id="checks",
            title=title,
            blocks=(missing("No checks were made: whether the upper bounds are to be believed is unknown."),),
        )
    tally = {name: sum(each.verdict == name for each in record.checks) for name in _READ}
    return Section(
        id="checks",
        title=title,
        blocks=(
            Paragraph(
                text=f"{amount(len(record.checks), 'check')}: "
                + ", ".join(f"{number_of} {word}" for word, number_of in tally.items())
                + ". A failed check of severity “error” means that the numbers above are not to be trusted."
            ),
            Checks(checks=ordered_checks(record.checks)),
        ),
    )


def check_value(check: Check) -> str:
    """The number a check went by, with its unit; empty where there is none.

    >>> check_value(Check(name="a", verdict="PASS", severity="note", value=0.25, finding="", unit="points"))
    '0.25 points'
    """
    return "" if check.value is None else f"{number(check.value)} {check.unit}".strip()


def reproduce_section(record: AuditRecord) -> Section:
    """Everything that fixes the numbers: command, seed, versions, hashes."""
    rows: list[tuple[Cell, ...]] = [
        ("model", record.model.name),
        ("SHA-256 of the model", Code(text=record.model.sha256 or "not recorded")),
        ("parameters", count(record.model.parameters)),
        *(() if record.task == "classification" else (("task", record.task),)),
        ("classes" if record.task == "classification" else "outputs", count(record.model.classes)),
        ("input shape", " × ".join(map(str, record.model.input_shape)) or "unknown"),
        ("valid inputs", f"{number(record.model.box[0])} to {number(record.model.box[1])}"),
        ("device, number format", f"{record.model.device}, {record.model.dtype}"),
        ("data", f"{record.data.name}, {amount(record.data.n, 'example')}"),
        ("SHA-256 of the data", Code(text=record.data.sha256 or "not recorded")),
        ("seed", str(record.seed)),
        ("budget", record.budget),
        ("created", record.created),
        ("exit code", f"{record.exit_code} ({_EXIT.get(record.exit_code, 'unknown')})"),
        ("schema of the record", str(record.schema)),
    ]
    rows += [(f"version of {name}", version) for name, version in sorted(record.versions.items())]
    blocks: list[Block] = [
        Paragraph(text="The exact command. The same command on the same files gives the same record."),
        Listing(text=record.command),
        Table(
            caption="What was audited, with what.",
            head=("what", "value"),
            rows=tuple(rows),
            words=(0, 1),
        ),
    ]
    if record.misses:
        blocks.append(Items(title="Thresholds missed", items=record.misses))
    if record.model.notes:
        blocks.append(Items(title="Notes on the model", items=record.model.notes))
    return Section(id="reproduce", title="How to reproduce", blocks=tuple(blocks))
