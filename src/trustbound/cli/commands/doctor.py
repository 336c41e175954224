"""`trustbound doctor`: what this machine has."""

from __future__ import annotations

import os
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from trustbound.cli.options import as_json

#: A requirement of an extra in the package's metadata: its name, its least version, the extra.
_REQUIRED = re.compile(r"""^([A-Za-z0-9._-]+)[^;]*?(?:>=\s*([0-9.]+))?[^;]*;.*extra\s*==\s*['"]([\w-]+)['"]""")


@click.command("doctor")
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def doctor_command(json_output: bool) -> None:
    """Show versions, extras, devices, threads, where named data sets are found, and what is missing."""
    import torch

    from trustbound.audits.versions import versions

    compiler = shutil.which(os.environ.get("CXX", "g++"))
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    extras, data = _extras(), _found_sets()
    missing = [
        *(
            f"extra {name} ({', '.join(one for one, state in packages.items() if not _fine(state))}): "
            f"pip install 'trustbound[{name}]'"
            for name, packages in extras.items()
            if not all(map(_fine, packages.values()))
        ),
        *([] if compiler else ["a C++ compiler: torch.compile needs one; apt-get install g++, or set CXX"]),
        *([] if len(devices) > 1 else ["a GPU: everything runs on the CPU, large networks slowly"]),
        *(f"data {name}: {place}" for name, place in data.items() if place.startswith("not here")),
    ]
    facts = {
        "versions": versions(),
        "extras": extras,
        "threads": torch.get_num_threads(),
        "devices": devices,
        "compiler": compiler or "none: torch.compile needs a C++ compiler",
        "data": data,
        "missing": missing,
    }
    click.echo(as_json(facts) if json_output else "\n".join(_lines(facts)))


def _lines(facts: dict[str, Any]) -> list[str]:
    """What was found, for people; what is missing comes last, each with what to do."""
    lines = []
    for name, value in facts.items():
        if name == "missing":
            lines += ["missing, none of it needed by everybody:" if value else "nothing is missing"]
            lines += [f"  {one}" for one in value]
        elif isinstance(value, dict):
            told = {key: _packages(part) if isinstance(part, dict) else part for key, part in value.items()}
            lines += [name, *(f"  {key:<16}{part}" for key, part in told.items())]
        else:
            lines.append(f"{name:<18}{', '.join(map(str, value)) if isinstance(value, list) else value}")
    return lines


def _packages(states: dict[str, str]) -> str:
    return ", ".join(f"{name} {state}" for name, state in states.items())


def _fine(state: str) -> bool:
    """Whether a package is there in a version that will do."""
    return not state.startswith("missing") and " needs " not in state


def _extras() -> dict[str, dict[str, str]]:
    """Every extra but that of developers, with the version of each of its packages, or what is wrong with it."""
    try:
        required = metadata.requires("trustbound") or []
    except metadata.PackageNotFoundError:  # run from a source tree that was not installed
        return {}
    found: dict[str, dict[str, str]] = {}
    for match in filter(None, map(_REQUIRED.match, required)):
        name, least, extra = match.groups()
        if extra != "dev" and name != "trustbound":
            found.setdefault(extra, {})[name] = _state(name, least)
    return found


def _state(name: str, least: str | None) -> str:
    """The version of a package, with what is needed where it is older.

    >>> _state("no-such-package", "1.0")
    'missing (1.0 or newer)'
    """
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing" + (f" ({least} or newer)" if least else "")
    old = least is not None and _numbers(version) < _numbers(least)
    return f"{version} needs {least} or newer" if old else version


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _found_sets() -> dict[str, str]:
    """Where each named data set lies; nothing is fetched."""
    from trustbound.data.download import cache_folder
    from trustbound.data.registry import DATA

    given = os.environ.get("TRUSTBOUND_DATA")
    found = {}
    for row in DATA:
        places = [Path(given) / folder for folder in row.folders] if given else []
        places.append(cache_folder() / row.name)
        whole = (
            place
            for place in places
            if all(
                (place / file.name).is_file() or (place / file.name.removesuffix(".gz")).is_file() for file in row.files
            )
        )
        place = next(whole, None)
        found[row.name] = "embedded" if not row.files else str(place or "not here; fetched when it is first asked for")
    return found
