"""`trustbound list`: what there is, from the registries."""

from __future__ import annotations

import importlib
import inspect
import json
import math
from collections.abc import Callable
from typing import Any

import click

from trustbound.cli.options import as_json
from trustbound.errors import InputError
from trustbound.registry import Registry

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

    return [{"name": row.name, "sets": " ".join(row.sets), "line": row.line} for row in CERTIFIERS]


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


#: Kinds whose members have parameters: where their registry is.
_TABLES = {
    "attacks": "trustbound.attacks.registry:ATTACKS",
    "certifiers": "trustbound.certificates.registry:CERTIFIERS",
    "objectives": "trustbound.hardening.registry:OBJECTIVES",
}


@click.command("list")
@click.argument("kind", type=click.Choice(sorted(KINDS)))
@click.argument("name", required=False)
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def list_command(kind: str, name: str | None, json_output: bool) -> None:
    """List everything of a KIND by name, or the parameters of one attack, certifier or objective, by NAME."""
    if name is not None:
        told = _member(kind, name)
        click.echo(as_json(told) if json_output else _described(told))
        return
    rows = KINDS[kind]()
    if json_output:
        click.echo(as_json({kind: rows}))
        return
    _aligned(rows)


def _member(kind: str, name: str) -> dict[str, Any]:
    """One member: what its class says of itself, and its parameters with their defaults."""
    if kind not in _TABLES:
        raise InputError(f"of {kind} there are names alone; {', '.join(_TABLES)} have parameters")
    module, _, attribute = _TABLES[kind].partition(":")
    table: Registry[Any] = getattr(importlib.import_module(module), attribute)
    row = table.find(name)
    made = table.load(name)
    about = (inspect.getdoc(made) or "").partition(">>>")[0].rstrip()
    return {"name": name, "line": row.line, "about": about, "parameters": _parameters(made)}


def _parameters(made: Any) -> list[dict[str, Any]]:
    """Name, kind of value and default of each parameter; a default that is no plain value as text."""
    found = []
    for one in inspect.signature(made).parameters.values():
        required = one.default is inspect.Parameter.empty
        plain = isinstance(one.default, bool | int | float | str | None) and one.default not in (math.inf, -math.inf)
        default = None if required else one.default if plain else str(one.default)
        found.append({"name": one.name, "type": str(one.annotation), "required": required, "default": default})
    return found


def _described(told: dict[str, Any]) -> str:
    rows = [
        f"  {one['name']:<20}{one['type']:<24}{'required' if one['required'] else json.dumps(one['default'])}"
        for one in told["parameters"]
    ]
    head = "parameters, for --params as JSON:" if rows else "It has no parameters."
    return "\n".join([f"{told['name']}: {told['line']}", "", told["about"], "", head, *rows])


def _aligned(rows: Listed) -> None:
    """Print rows in columns."""
    columns = list(rows[0]) if rows else []
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in columns[:-1]}
    for row in [{name: name for name in columns}, *rows]:
        click.echo("  ".join([*(row[name].ljust(widths[name]) for name in columns[:-1]), row[columns[-1]]]))
