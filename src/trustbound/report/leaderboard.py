"""Many audits on one page: a table for each data set and threat, since only rows of one table can be compared.

The digest of its data and the rows that were drawn from it say in which table a run stands, never a name alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trustbound.errors import InputError
from trustbound.record.audit import AuditRecord
from trustbound.report.comparison import titles
from trustbound.report.formatting import amount, date, interval, number, share
from trustbound.report.page import environment, save, theme
from trustbound.report.verdict import judge
from trustbound.report.wording import legible


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One audit under one threat, in the numbers of its record.

    Parameters
        ece             expected calibration error on the clean examples; None where it was not measured.
        failed, warned  checks of the evaluation, of the model as a whole and under this threat.
        evaluations     of the whole run, all threats: forwards + r · backwards.
        trusted         nothing says that the numbers are not to be believed.
    """

    run: str
    model: str
    model_sha256: str
    clean_accuracy: float
    clean_interval: tuple[float, float]
    lower: float
    lower_interval: tuple[float, float]
    upper: float
    upper_interval: tuple[float, float]
    certified: int
    unknown: int
    broken: int
    misclassified: int
    n: int
    ece: float | None
    failed: int
    warned: int
    budget: str
    evaluations: float
    seconds: float
    created: str
    exit_code: int
    trusted: bool


@dataclass(frozen=True, kw_only=True)
class Board:
    """The audits of the same examples under the same threat, the highest lower bound first, doubtful ones last."""

    data: str
    sha256: str
    n: int
    threat: str
    entries: tuple[Entry, ...]


def boards(records: Sequence[AuditRecord], *, names: Sequence[str] = ()) -> tuple[Board, ...]:
    """Tables of audits, one for each data set and threat, in the order in which they come first.

    Raises      InputError for no record, or for another number of names.
    """
    if not records:
        raise InputError("a leaderboard needs at least one finished audit; got none")
    if names and len(names) != len(records):
        raise InputError(f"a leaderboard needs one name for each audit; got {len(names)} for {len(records)} audits")
    called = titles(names or [record.model.name for record in records])
    groups: dict[tuple[str, tuple[int, ...], str], list[Entry]] = {}
    data: dict[tuple[str, tuple[int, ...], str], AuditRecord] = {}
    for name, record in zip(called, records, strict=True):
        trusted = not judge(record).reasons
        for number_of, bracket in enumerate(record.brackets):
            key = (record.data.sha256, record.data.indices, bracket.threat)
            data.setdefault(key, record)
            groups.setdefault(key, []).append(_entry(name, record, number_of, trusted))
    return tuple(
        Board(
            data=data[key].data.name,
            sha256=key[0],
            n=data[key].data.n,
            threat=key[2],
            entries=tuple(sorted(entries, key=lambda one: (not one.trusted, -one.lower, -one.upper))),
        )
        for key, entries in groups.items()
    )


def document(found: Sequence[Board]) -> dict[str, Any]:
    """The tables as plain values, with every digit."""
    return {"boards": [asdict(board) for board in found]}


def cautions(found: Sequence[Board]) -> tuple[str, ...]:
    """What must be known before rows are compared."""
    said = []
    sets = dict.fromkeys((board.data, board.sha256, board.n) for board in found)
    if len(found) > 1:
        said.append(
            f"{amount(len(found), 'table')}: {amount(len(sets), 'set')} of examples and "
            f"{amount(len({board.threat for board in found}), 'threat')}. Rows of different tables answer different "
            "questions and are not to be compared."
        )
    for board in found:
        budgets = sorted({one.budget for one in board.entries})
        if len(budgets) > 1:
            said.append(
                f"{board.data} under {board.threat}: budgets differ ({', '.join(budgets)}), and a dearer search finds "
                "lower upper bounds."
            )
        doubtful = [one.run for one in board.entries if not one.trusted]
        if doubtful:
            said.append(f"{board.data} under {board.threat}: not to be trusted, so last: {', '.join(doubtful)}.")
    return tuple(said)


def render_leaderboard(found: Sequence[Board], *, left_out: Mapping[str, str] | None = None) -> str:
    """The page; its tables can be sorted where scripts run, and are plain tables elsewhere.

    Parameters
        left_out    runs that are not in it, and why.
    """
    return (
        environment()
        .get_template("leaderboard.html.j2")
        .render(
            boards=[
                {"board": board, "rows": [_cells(one) for one in board.entries], "id": f"table-{place}"}
                for place, board in enumerate(found, 1)
            ],
            runs=len({one.run for board in found for one in board.entries}),
            cautions=cautions(found),
            left_out=dict(left_out or {}),
            amount=amount,
            **theme(),
        )
    )


def write_leaderboard(found: Sequence[Board], path: str | Path, *, left_out: Mapping[str, str] | None = None) -> Path:
    """Render the page into a file, whole or not at all; returns its path."""
    return save(render_leaderboard(found, left_out=left_out), path)


def table_text(found: Sequence[Board]) -> RenderableType:
    """The tables in a terminal."""
    parts: list[RenderableType] = [Text(said, style="yellow") for said in cautions(found)]
    for board in found:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column("run", overflow="fold")
        for heading in ("clean", "at least", "at most", "ECE", "FAIL\nWARN", "units", "budget", "date"):
            words = heading in ("budget", "date")
            table.add_column(heading, justify="left" if words else "right", no_wrap=True)
        for one in board.entries:
            cells = {name: text for name, text, _, _ in _cells(one)["cells"]}
            table.add_row(
                Text(legible(one.run, 60) + ("" if one.trusted else " (not to be trusted)")),
                *(cells[name] for name in ("clean", "at least", "at most", "ECE", "checks", "evaluations")),
                Text(legible(one.budget, 10)),
                cells["date"].partition(",")[0],
            )
        head = f"{legible(board.data)}, {amount(board.n, 'example')}, under {legible(board.threat)}"
        parts += [Text(f"\n{head}", style="bold"), table]
    return Group(*parts)


def _entry(name: str, record: AuditRecord, number_of: int, trusted: bool) -> Entry:
    bracket = record.brackets[number_of]
    checks = [each for each in record.checks if each.threat in ("", bracket.threat)]
    report = record.uncertainty
    return Entry(
        run=name,
        model=record.model.name,
        model_sha256=record.model.sha256,
        clean_accuracy=record.clean_accuracy,
        clean_interval=record.clean_interval,
        lower=bracket.lower,
        lower_interval=bracket.lower_interval,
        upper=bracket.upper,
        upper_interval=bracket.upper_interval,
        certified=bracket.certified,
        unknown=bracket.unknown,
        broken=bracket.broken,
        misclassified=bracket.misclassified,
        n=bracket.n,
        ece=None if report is None else report.clean.ece,
        failed=sum(each.verdict == "FAIL" for each in checks),
        warned=sum(each.verdict == "WARN" for each in checks),
        budget=record.budget,
        evaluations=record.cost.units(record.backward_cost),
        seconds=record.cost.seconds,
        created=record.created,
        exit_code=record.exit_code,
        trusted=trusted,
    )


def _cells(one: Entry) -> dict[str, Any]:
    """A row: columns as (heading, text, what it is sorted by, what explains it), and the pieces of its bar."""
    left, pieces = 0.0, []
    for verdict in ("certified", "unknown", "broken", "misclassified"):
        width = 100.0 * getattr(one, verdict) / one.n
        pieces.append((verdict, left, width))
        left += width
    calibration = "–" if one.ece is None else number(one.ece, 2)
    return {
        "entry": one,
        "pieces": pieces,
        "said": ", ".join(f"{getattr(one, verdict):,} {verdict}" for verdict, _, _ in pieces),
        "cells": (
            ("clean", share(one.clean_accuracy), one.clean_accuracy, f"95 %: {interval(one.clean_interval)}"),
            ("at least", share(one.lower), one.lower, f"95 %: {interval(one.lower_interval)}"),
            ("at most", share(one.upper), one.upper, f"95 %: {interval(one.upper_interval)}"),
            ("ECE", calibration, -1.0 if one.ece is None else one.ece, ""),
            ("checks", f"{one.failed} / {one.warned}", one.failed * 1000 + one.warned, ""),
            ("budget", one.budget, one.budget, ""),
            ("evaluations", number(one.evaluations), one.evaluations, ""),
            ("date", date(one.created), one.created, ""),
        ),
    }
