"""`trustbound doctor`: what this machine has."""

from __future__ import annotations

import os
import shutil

import click

from trustbound.cli.options import as_json


@click.command("doctor")
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def doctor_command(json_output: bool) -> None:
    """Show versions, devices, threads and where named data sets are found."""
    import torch

    from trustbound.audits.facts import versions
    from trustbound.data.find import found_sets

    facts = {
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "devices": ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))],
        "compiler": shutil.which(os.environ.get("CXX", "g++")) or "none: torch.compile needs a C++ compiler",
        "data": found_sets(),
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
