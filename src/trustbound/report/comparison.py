"""Two or more audits side by side: their brackets, clean accuracy and checks on one small page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trustbound.errors import InputError
from trustbound.record.audit import AuditRecord, Bracket
from trustbound.report.figures.bracket import NARROW, bracket_picture
from trustbound.report.formatting import count, duration, number, share_with_interval
from trustbound.report.page import environment, save, theme
from trustbound.report.sections.blocks import Block, Code, Items, Paragraph, Picture, Section, Table, missing
from trustbound.report.verdict import judge

_STANDING = {
    "trusted": "done",
    "missed": "a threshold missed",
    "distrusted": "NOT TO BE TRUSTED",
}


def render_comparison(records: Sequence[AuditRecord], *, names: Sequence[str] = ()) -> str:
    """A page that sets audits side by side, in the order given.

    Parameters
        names   what to call each audit; the models' names by default, numbered where they repeat.

    Raises      InputError for fewer than two records, or for another number of names.
    """
    if len(records) < 2:
        raise InputError(f"a comparison needs at least two audits; got {len(records)}. Name another run.")
    if names and len(names) != len(records):
        raise InputError(f"a comparison needs one name for each audit; got {len(names)} for {len(records)} audits.")
    called = titles(names or [record.model.name for record in records])
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            names=called,
            sections=(
                _overview(records, called),
                *_threats(records, called),
                _checks(records, called),
                _origin(records, called),
            ),
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


def _overview(records: Sequence[AuditRecord], names: Sequence[str]) -> Section:
    """Clean accuracy, standing and price of each audit, and what stands against comparing them."""
    cautions = [
        f"{name}: {reason}." for name, record in zip(names, records, strict=True) for reason in judge(record).reasons
    ]
    if len({(record.data.sha256, record.data.indices) for record in records}) > 1:
        cautions.append(
            "The audits did not use the same examples: differences may come from the data as well as from the networks."
        )
    if len({record.budget for record in records}) > 1:
        cautions.append("The audits had different budgets: a dearer search finds lower upper bounds.")
    blocks: list[Block] = [Items(title="Before comparing", items=tuple(cautions))] if cautions else []
    blocks.append(
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
    )
    return Section(id="overview", title="Overview", blocks=tuple(blocks))


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
        blocks: list[Block] = [
            Picture(
                caption="certified share ≤ true robust accuracy ≤ unbroken share, for each audit.",
                wide=bracket_picture(brackets, names=called, name=f"threat-{index}-wide", standalone=False),
                narrow=bracket_picture(
                    brackets, names=called, name=f"threat-{index}-narrow", width=NARROW, standalone=False
                ),
            ),
            Paragraph(text=_order(records, names, rows)),
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


def _order(records: Sequence[AuditRecord], names: Sequence[str], rows: Sequence[tuple[str, Bracket]]) -> str:
    """Which network withstands more, where that can be said at all."""
    of = dict(zip(names, records, strict=True))
    doubtful = [name for name, _ in rows if judge(of[name]).reasons]
    if doubtful:
        return f"No order is claimed: the numbers of {', '.join(doubtful)} are not to be trusted."
    if len({(of[name].data.sha256, of[name].data.indices) for name, _ in rows}) > 1:
        return "No order is claimed: the audits did not use the same examples."
    return apart(rows)


def apart(rows: Sequence[tuple[str, Bracket]]) -> str:
    """Which brackets lie wholly above which, and whether that outlasts chance.

    >>> low = Bracket(threat="linf:0.1", lower=0.0, upper=0.1, lower_interval=(0.0, 0.1),
    ...     upper_interval=(0.0, 0.3), n=20, certified=0, broken=18, misclassified=0, unknown=2)
    >>> high = Bracket(threat="linf:0.1", lower=0.5, upper=0.9, lower_interval=(0.2, 0.8),
    ...     upper_interval=(0.6, 1.0), n=20, certified=10, broken=2, misclassified=0, unknown=8)
    >>> apart([("plain", low), ("hardened", high)])
    'On these examples hardened lies above plain (the intervals overlap, so this may be chance).'
    """
    said = []
    for name, bracket in rows:
        for other, below in rows:
            if bracket.lower > below.upper:
                sure = bracket.lower_interval[0] > below.upper_interval[1]
                said.append(
                    f"{name} lies above {other} "
                    + (
                        "(and the intervals do not overlap)"
                        if sure
                        else "(the intervals overlap, so this may be chance)"
                    )
                )
    if not said:
        return "The brackets overlap: what was found does not tell which of these networks withstands more."
    return "On these examples " + "; ".join(said) + "."


def _checks(records: Sequence[AuditRecord], names: Sequence[str]) -> Section:
    """Every check by name, with its verdict in each audit."""
    checks = dict.fromkeys((each.name, each.threat) for record in records for each in record.checks)
    if not checks:
        return Section(id="checks", title="Checks", blocks=(missing("No audit made any checks."),))
    by_audit = [{(each.name, each.threat): each.verdict for each in record.checks} for record in records]
    return Section(
        id="checks",
        title="Checks",
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
        blocks=tuple(
            Table(
                caption=f"{name}: command, seed and hashes.",
                head=("what", "value"),
                rows=(
                    ("command", Code(text=record.command)),
                    ("seed", str(record.seed)),
                    ("budget", record.budget),
                    ("created", record.created),
                    ("model SHA-256", Code(text=record.model.sha256 or "not recorded")),
                    ("data SHA-256", Code(text=record.data.sha256 or "not recorded")),
                ),
                words=(0, 1),
            )
            for name, record in zip(names, records, strict=True)
        ),
    )
