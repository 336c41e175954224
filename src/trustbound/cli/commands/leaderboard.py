"""`trustbound leaderboard`: many finished audits on one page."""

from __future__ import annotations

from pathlib import Path

import click

from trustbound.cli.options import as_json


@click.command("leaderboard")
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option("--out", type=click.Path(), help="Also write a page whose tables can be sorted.")
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def leaderboard_command(runs: tuple[str, ...], out: str | None, json_output: bool) -> None:
    """Rank the finished audits in the directories RUNS, a table for each set of examples and threat.

    Runs that are not finished are left out, and named.
    """
    from rich.console import Console

    from trustbound.errors import RecordError
    from trustbound.record.record_file import read_record
    from trustbound.report.leaderboard import boards, document, table_text, write_leaderboard

    records, names, left_out = [], [], {}
    for run in dict.fromkeys(Path(run) for run in runs):
        try:
            records.append(read_record(run))
            names.append(run.name or str(run))
        except RecordError as error:
            left_out[str(run)] = str(error)
            click.echo(f"left out: {run}: {error}", err=True)
    if not records:
        raise RecordError(f"a leaderboard needs at least one finished audit; none of {len(left_out)} is")
    found = boards(records, names=names)
    if out:
        write_leaderboard(found, out, left_out=left_out)
    if json_output:
        click.echo(as_json({**document(found), "left_out": left_out}))
        return
    Console().print(table_text(found))
    if out:
        click.echo(f"page: {out}")
