"""How to reproduce an audit: everything that fixes its numbers."""

from __future__ import annotations

from trustbound.record.audit import AuditRecord
from trustbound.report.formatting import amount, count, date, number
from trustbound.report.sections.blocks import Block, Cell, Code, Items, Listing, Paragraph, Section, Table

_EXIT = {
    0: "done; no threshold was missed",
    1: "a threshold missed",
    2: "wrong usage or input",
    3: "finished but not to be trusted",
}


def reproduce_section(record: AuditRecord) -> Section:
    """Command, seed, versions, hashes."""
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
        ("created", date(record.created)),
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
    return Section(id="reproduce", title="How to reproduce", blocks=tuple(blocks), folded=True)
