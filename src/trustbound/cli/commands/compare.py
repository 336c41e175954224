"""`trustbound compare`: finished audits side by side."""

from __future__ import annotations

from pathlib import Path

import click

from trustbound.cli.options import as_json


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option("--out", type=click.Path(), help="Also write a page.")
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def compare_command(runs: tuple[str, ...], out: str | None, json_output: bool) -> None:
    """Compare the finished audits in the directories RUNS: brackets, and whether differences are significant."""
    from trustbound.audits.compare import compare
    from trustbound.errors import InputError
    from trustbound.record.record_file import read_record
    from trustbound.report import write_comparison

    if len(runs) < 2:
        raise InputError(f"compare takes at least two run directories; got {len(runs)}")
    records = [read_record(run) for run in runs]
    names = [Path(run).name for run in runs]
    comparison = compare(records, names=names)
    if out:
        write_comparison(records, out, names=names)
    click.echo(as_json(comparison.document()) if json_output else comparison.text())
