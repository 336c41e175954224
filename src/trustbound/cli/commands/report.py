"""`trustbound report`: the page of a finished audit, again."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("run", type=click.Path())
@click.option("--out", type=click.Path(), help="Where to write the page (default: RUN/report.html).")
def report_command(run: str, out: str | None) -> None:
    """Write the report of the finished audit in the directory RUN."""
    from trustbound.record.record_file import read_record
    from trustbound.report import read_gallery, write

    folder = Path(run)
    page = write(read_record(folder), Path(out) if out else folder / "report.html", gallery=read_gallery(folder))
    click.echo(f"report: {page}")
