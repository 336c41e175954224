"""What was found under each threat: brackets, threats in words, and the three errors."""

from __future__ import annotations

from trustbound.record.audit import VERDICTS, AuditRecord
from trustbound.report.formatting import count, counted, share_with_interval
from trustbound.report.sections.blocks import Block, Code, Paragraph, Section, Table, missing, without_zeros
from trustbound.report.sections.measures import example_blocks, task_blocks
from trustbound.report.wording import change_words, noun, precision_words

#: Beside the verdicts, of which these examples have one: margins within rounding error, proofs that rounding took.
_TIE, _ROUNDED = "a tie, clean or under attack", "proof lost to rounding"


def brackets_section(record: AuditRecord) -> Section:
    """The brackets in numbers, and which example got which verdict."""
    title = "The brackets in numbers"
    if not record.brackets:
        return _unexamined("brackets", title)
    blocks: list[Block] = [
        Paragraph(
            text="What is certified holds under every allowed change; what is broken has a witness that was checked; "
            "between them lies what nobody knows: certified share ≤ true robust accuracy ≤ unbroken share."
        ),
        Table(
            caption="Brackets in numbers. At least: the certified share; at most: the unbroken share; both with "
            "exact 95 % intervals. Counts of examples; ties are part of the unknown.",
            head=(
                "threat",
                "at least",
                "at most",
                "examples",
                "certified",
                "unknown",
                "ties",
                "broken",
                "misclassified",
            ),
            rows=tuple(
                (
                    b.threat,
                    share_with_interval(b.lower, b.lower_interval),
                    share_with_interval(b.upper, b.upper_interval),
                    count(b.n),
                    count(b.certified),
                    count(b.unknown),
                    count(b.ties),
                    count(b.broken),
                    count(b.misclassified),
                )
                for b in record.brackets
            ),
        ),
    ]
    blocks += [missing(f"{b.threat}: {b.no_proof}.") for b in record.brackets if b.no_proof]
    blocks += task_blocks(record)
    blocks += [Paragraph(text=each) for b in record.brackets for each in precision_words(b)]
    rows = tuple(
        (threat, verdict, count(len(indices)), Code(text=" ".join(map(str, indices)) or "none"))
        for threat, verdict, indices in _members(record)
    )
    if rows:
        blocks.append(
            Table(
                caption="Which examples: row numbers in the data set.",
                head=("threat", "verdict", "examples", "rows"),
                rows=rows,
                words=(0, 1, 3),
                folded=True,
                printed=False,
            )
        )
    else:
        blocks.append(missing("The record lists no single examples."))
    blocks += example_blocks(record)
    blocks = [without_zeros(block) if isinstance(block, Table) else block for block in blocks]
    return Section(id="brackets", title=title, blocks=tuple(blocks), folded=True)


def threats_section(record: AuditRecord) -> Section:
    """What the adversary may do, wants and sees."""
    what, title = noun(record.model.input_shape), "What the adversary may do, wants and sees"
    if not record.brackets:
        return _unexamined("threats", title)
    return Section(
        id="threats",
        title=title,
        folded=True,
        blocks=(
            Table(
                caption="What was allowed, what counts as success, and what the adversary sees.",
                head=("threat", "goal", "access", "allowed change"),
                rows=tuple((b.threat, b.goal, b.access, change_words(b, what)) for b in record.brackets),
                words=(0, 1, 2, 3),
            ),
        ),
    )


def errors_section(record: AuditRecord) -> Section:
    """Natural, boundary and robust error of each threat."""
    title = "Errors without an attack and under it"
    if not record.brackets:
        return _unexamined("errors", title)
    return Section(
        id="errors",
        title=title,
        folded=True,
        blocks=(
            Paragraph(
                text="Natural error is wrong without any attack, boundary error only under attack; robust error is "
                "their sum. It is at least this large: what is unknown is counted as withstanding."
            ),
            Table(
                caption="Errors with exact 95 % intervals.",
                head=("threat", "natural error", "boundary error", "robust error", "examples"),
                rows=tuple(
                    (
                        b.threat,
                        counted(b.misclassified, b.n),
                        counted(b.broken, b.n),
                        counted(b.misclassified + b.broken, b.n),
                        count(b.n),
                    )
                    for b in record.brackets
                ),
            ),
        ),
    )


def _unexamined(name: str, title: str) -> Section:
    """A section of an audit without threats."""
    return Section(id=name, title=title, blocks=(missing("No threat was examined in this audit."),), folded=True)


def _members(record: AuditRecord) -> list[tuple[str, str, list[int]]]:
    """Threat, verdict and the rows that got it, in the order of the brackets; then what rounding has a say in."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in record.examples:
        found.setdefault((row.threat, row.verdict), []).append(row.index)
        if row.tie:
            found.setdefault((row.threat, _TIE), []).append(row.index)
        if row.rounded:
            found.setdefault((row.threat, _ROUNDED), []).append(row.index)
    threats = list(dict.fromkeys([b.threat for b in record.brackets] + [t for t, _ in found]))
    return [
        (threat, verdict, sorted(found[threat, verdict]))
        for threat in threats
        for verdict in (*VERDICTS, _TIE, _ROUNDED)
        if (threat, verdict) in found
    ]
