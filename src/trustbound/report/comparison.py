"""Two or more audits side by side: which can be trusted further, and what that rests on, on one small page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trustbound.errors import InputError
from trustbound.record.audit import AuditRecord, Bracket
from trustbound.report.figures.bracket import NARROW, bracket_picture
from trustbound.report.formatting import count, date, duration, number, share_with_interval
from trustbound.report.page import environment, save, theme
from trustbound.report.sections.blocks import Block, Code, Paragraph, Picture, Section, Table, missing
from trustbound.report.sections.pairs import order
from trustbound.report.verdict import judge

_STANDING = {
    "trusted": "done",
    "missed": "a threshold missed",
    "distrusted": "NOT TO BE TRUSTED",
}


def render_comparison(records: Sequence[AuditRecord], *, names: Sequence[str] = ()) -> str:
    """A page that sets audits side by side, in the order given, and says which withstands more where that can be said.

    Parameters
        names   what to call each audit; the models' names by default, numbered where they repeat.

    Raises      InputError for fewer than two records, or for another number of names.
    """
    if len(records) < 2:
        raise InputError(f"a comparison needs at least two audits; got {len(records)}. Name another run.")
    if names and len(names) != len(records):
        raise InputError(f"a comparison needs one name for each audit; got {len(names)} for {len(records)} audits.")
    called = titles(names or [record.model.name for record in records])
    cautions = _cautions(records, called)
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            names=called,
            cautions=cautions,
            sections=(*_threats(records, called), _overview(records, called)),
            appendix=(_checks(records, called), _origin(records, called)),
            **theme(),
        )
    )


def write_comparison(records: Sequence[AuditRecord], path: str | Path, *, names: Sequence[str] = ()) -> Path:
    """Render the comparison into a file, whole or not at all; returns its path."""
    return save(render_comparison(records, names=names), path)


def titles(names: Sequence[str]) -> tuple[str, ...]:
    """Names that tell audits apart.

    >>> titles(["cnn", "cnn", "vit"])
    ('cnn (1)', 'cnn (2)', 'vit')
    """
    plain = list(names)
    return tuple(
        f"{name} ({plain[: index + 1].count(name)})" if plain.count(name) > 1 else name
        for index, name in enumerate(plain)
    )


def _cautions(records: Sequence[AuditRecord], names: Sequence[str]) -> tuple[str, ...]:
    """What stands against comparing these audits."""
    cautions = [
        f"{name}: {reason}." for name, record in zip(names, records, strict=True) for reason in judge(record).reasons
    ]
    if not all(records[0].same_examples(record) for record in records[1:]):
        cautions.append(
            "The audits did not use the same examples: differences may come from the data as well as from the networks."
        )
    if len({record.budget for record in records}) > 1:
        cautions.append("The audits had different budgets: a dearer search finds lower upper bounds.")
    return tuple(cautions)


def _overview(records: Sequence[AuditRecord], names: Sequence[str]) -> Section:
    """Clean accuracy, standing and price of each audit."""
    blocks: list[Block] = [
        Table(
            caption="Each audit; clean accuracy with its exact 95 % interval.",
            head=("audit", "standing", "clean accuracy", "examples", "units", "time"),
            rows=tuple(
                (
                    name,
                    _STANDING[judge(record).standing],
                    share_with_interval(record.clean_accuracy, record.clean_interval),
                    count(record.data.n),
                    number(record.cost.units(record.backward_cost)),
                    duration(record.cost.seconds),
                )
                for name, record in zip(names, records, strict=True)
            ),
            words=(0, 1),
        )
    ]
    return Section(id="overview", title="The audits", blocks=tuple(blocks))


def _threats(records: Sequence[AuditRecord], names: Sequence[str]) -> tuple[Section, ...]:
    """One section for each threat that any of the audits examined."""
    threats = dict.fromkeys(bracket.threat for record in records for bracket in record.brackets)
    found = []
    for index, threat in enumerate(threats):
        rows: list[tuple[str, Bracket]] = [
            (name, bracket)
            for name, record in zip(names, records, strict=True)
            for bracket in record.brackets
            if bracket.threat == threat
        ]
        brackets, called = [bracket for _, bracket in rows], [name for name, _ in rows]
        answer, *numbers = order(records, names, threat)
        blocks: list[Block] = [
            Paragraph(text=answer, tone="headline"),
            *(Paragraph(text=said) for said in numbers),
            Picture(
                caption="certified share ≤ true robust accuracy ≤ unbroken share, for each audit.",
                wide=bracket_picture(brackets, names=called, name=f"threat-{index}-wide", standalone=False),
                narrow=bracket_picture(
                    brackets, names=called, name=f"threat-{index}-narrow", width=NARROW, standalone=False
                ),
            ),
            Table(
                caption=f"Brackets under {threat}, with exact 95 % intervals.",
                head=("audit", "at least (certified)", "at most (unbroken)", "unknown", "examples"),
                rows=tuple(
                    (
                        name,
                        share_with_interval(b.lower, b.lower_interval),
                        share_with_interval(b.upper, b.upper_interval),
                        count(b.unknown),
                        count(b.n),
                    )
                    for name, b in rows
                ),
            ),
        ]
        absent = [name for name in names if name not in called]
        if absent:
            blocks.append(missing(f"Not examined under {threat}: {', '.join(absent)}."))
        found.append(Section(id=f"threat-{index}", title=f"Under {threat}", blocks=tuple(blocks)))
    if not found:
        return (Section(id="threat-0", title="Threats", blocks=(missing("No audit examined a threat."),)),)
    return tuple(found)


def _checks(records: Sequence[AuditRecord], names: Sequence[str]) -> Section:
    """Every check by name, with its verdict in each audit."""
    checks = dict.fromkeys((each.name, each.threat) for record in records for each in record.checks)
    if not checks:
        nothing = missing("No audit made any checks.")
        return Section(id="checks", title="Checks of each evaluation", blocks=(nothing,), folded=True)
    by_audit = [{(each.name, each.threat): each.verdict for each in record.checks} for record in records]
    return Section(
        id="checks",
        title="Checks of each evaluation",
        folded=True,
        blocks=(
            Table(
                caption="Checks of each evaluation.",
                head=("check", "threat", *names),
                rows=tuple(
                    (name, threat or "–", *(found.get((name, threat), "not made") for found in by_audit))
                    for name, threat in checks
                ),
                words=tuple(range(len(names) + 2)),
            ),
        ),
    )


def _origin(records: Sequence[AuditRecord], names: Sequence[str]) -> Section:
    """Where each audit comes from."""
    return Section(
        id="reproduce",
        title="How to reproduce",
        folded=True,
        blocks=tuple(
            Table(
                caption=f"{name}: command, seed and hashes.",
                head=("what", "value"),
                rows=(
                    ("command", Code(text=record.command)),
                    ("seed", str(record.seed)),
                    ("budget", record.budget),
                    ("created", date(record.created)),
                    ("model SHA-256", Code(text=record.model.sha256 or "not recorded")),
                    ("data SHA-256", Code(text=record.data.sha256 or "not recorded")),
                ),
                words=(0, 1),
            )
            for name, record in zip(names, records, strict=True)
        ),
    )
