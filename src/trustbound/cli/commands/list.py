"""`trustbound list`: what there is, from the registries."""

from __future__ import annotations

from collections.abc import Callable

import click

from trustbound.cli.options import as_json

Listed = list[dict[str, str]]


def _attacks() -> Listed:
    from trustbound.attacks.registry import ATTACKS

    return [
        {
            "name": row.name,
            "needs": row.needs,
            "sets": row.served + (", columns" if row.per_column else ""),
            "seeks": row.seeks,
            "line": row.line,
        }
        for row in ATTACKS
    ]


def _certifiers() -> Listed:
    from trustbound.certificates.registry import CERTIFIERS

    return [{"name": row.name, "sets": " ".join(row.norms), "line": row.line} for row in CERTIFIERS]


def _checks() -> Listed:
    from trustbound.audits.checks.registry import CHECKS

    return [{"name": row.name, "severity": row.severity, "line": row.line} for row in CHECKS]


def _data() -> Listed:
    from trustbound.data.registry import DATA

    return [{"name": row.name, "line": row.line} for row in DATA]


def _engines() -> Listed:
    from trustbound.engines.registry import ENGINES

    return [{"name": row.name, "line": row.line} for row in ENGINES]


def _files() -> Listed:
    from trustbound.model.files.registry import FILES

    return [{"name": row.name, "loaded": "yes" if row.loads else "no", "line": row.line} for row in FILES]


def _models() -> Listed:
    from trustbound.model.registry import ZOO

    return [{"name": row.name, "line": row.line} for row in ZOO]


def _objectives() -> Listed:
    from trustbound.hardening.registry import OBJECTIVES

    return [{"name": row.name, "line": row.line} for row in OBJECTIVES]


def _sets() -> Listed:
    from trustbound.threat.sets.registry import SETS

    return [{"name": row.name, "unit": row.unit, "example": row.example, "line": row.line} for row in SETS]


def _tasks() -> Listed:
    from trustbound.tasks.registry import TASKS

    return [{"name": row.name, "example": row.example, "outputs": row.returns, "line": row.line} for row in TASKS]


KINDS: dict[str, Callable[[], Listed]] = {
    "attacks": _attacks,
    "certifiers": _certifiers,
    "checks": _checks,
    "data": _data,
    "engines": _engines,
    "files": _files,
    "models": _models,
    "objectives": _objectives,
    "sets": _sets,
    "tasks": _tasks,
}


@click.command("list")
@click.argument("kind", type=click.Choice(sorted(KINDS)))
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def list_command(kind: str, json_output: bool) -> None:
    """List everything of a KIND by name."""
    rows = KINDS[kind]()
    if json_output:
        click.echo(as_json({kind: rows}))
        return
    columns = list(rows[0]) if rows else []
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in columns[:-1]}
    for row in [{name: name for name in columns}, *rows]:
        click.echo("  ".join([*(row[name].ljust(widths[name]) for name in columns[:-1]), row[columns[-1]]]))
