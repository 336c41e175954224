"""`trustbound doctor`: what this machine has."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

from trustbound.cli.options import as_json


@click.command("doctor")
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def doctor_command(json_output: bool) -> None:
    """Show versions, devices, threads and where named data sets are found."""
    import torch

    from trustbound.audits.versions import versions

    facts = {
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "devices": ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))],
        "compiler": shutil.which(os.environ.get("CXX", "g++")) or "none: torch.compile needs a C++ compiler",
        "data": _found_sets(),
    }
    if json_output:
        click.echo(as_json(facts))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            click.echo(f"{name}")
            for key, part in value.items():
                click.echo(f"  {key:<16}{part}")
        else:
            click.echo(f"{name:<18}{', '.join(map(str, value)) if isinstance(value, list) else value}")


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
