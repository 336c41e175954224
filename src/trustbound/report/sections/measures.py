"""What another task than classification says of the examples: its measures of quality, and each example in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trustbound.record.audit import AuditRecord
from trustbound.report.formatting import number
from trustbound.report.sections.blocks import Block, Paragraph, Table
from trustbound.report.wording import task_of

#: At most so many examples are listed under each threat.
_MOST = 200


def task_blocks(record: AuditRecord) -> list[Block]:
    """What counts as right, the task's measures by state, and the examples; nothing for a classification."""
    task = task_of(record)
    if task.name == "classification":
        return []
    blocks: list[Block] = [
        Paragraph(
            text=f"The task is {record.task}: an example counts while it is {task.right}. The verdict misclassified "
            "means that it was not, before anything was changed."
        )
    ]
    names = list(dict.fromkeys(name for found in record.measures.values() for name in found))
    if names:
        blocks.append(
            Table(
                caption="Quality, clean and under attack: on what breaks an example where it was broken, else on the "
                "clean input.",
                head=("inputs", *names),
                rows=tuple(
                    (state, *(number(found.get(name)) for name in names)) for state, found in record.measures.items()
                ),
            )
        )
    return blocks


def example_blocks(record: AuditRecord) -> list[Block]:
    """Each example in the task's own numbers, those that came nearest to the goal first."""
    told = [row for row in record.examples if row.detail]
    names = list(dict.fromkeys(name for row in told for name in row.detail))
    blocks: list[Block] = []
    for threat in dict.fromkeys(row.threat for row in told):
        ours = [row for row in told if row.threat == threat]
        ours.sort(key=lambda row: (row.margin is None, row.margin))
        part = "" if len(ours) <= _MOST else f", {_MOST} of {len(ours)}, smallest margins first"
        blocks.append(
            Table(
                caption=f"Examples under {threat}{part}.",
                head=("example", "verdict", "margin", *(name.replace("_", " ") for name in names)),
                rows=tuple(
                    (str(row.index), row.verdict, number(row.margin), *(plain(row.detail, name) for name in names))
                    for row in ours[:_MOST]
                ),
                words=(0, 1),
                folded=True,
                printed=False,
            )
        )
    return blocks


def plain(detail: Mapping[str, Any], name: str) -> str:
    """One of the numbers that a record keeps of an example; several joined, a dash where there is none.

    >>> plain({"error": [1.5, -2.0]}, "error"), plain({}, "error")
    ('1.5, −2', '–')
    """
    value = detail.get(name)
    if isinstance(value, list | tuple):
        return ", ".join(number(each) if isinstance(each, int | float) else str(each) for each in value)
    if isinstance(value, int | float):
        return number(float(value))
    return "–" if value is None else str(value)


def sentence(detail: Mapping[str, Any]) -> str:
    """The same as one line: "target 63, prediction 122.5".

    >>> sentence({"target": 63.0, "adversarial_error": 84.0})
    'target 63, adversarial error 84'
    """
    return ", ".join(f"{name.replace('_', ' ')} {plain(detail, name)}" for name in detail)
