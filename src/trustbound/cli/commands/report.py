"""`trustbound report`: the page of a finished audit, again."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("run", type=click.Path())
@click.option("--out", type=click.Path(), help="Where to write the page (default: RUN/report.html).")
def report_command(run: str, out: str | None) -> None:
    """Write the report of the finished audit in the directory RUN."""
    from trustbound.record.read import read_record
    from trustbound.report import write_report

    folder = Path(run)
    page = write_report(read_record(folder), folder, Path(out) if out else None)
    click.echo(f"report: {page}")
