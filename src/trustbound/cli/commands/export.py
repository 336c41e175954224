"""`trustbound export`: a finished audit, taken away."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export")
@click.argument("run", type=click.Path())
@click.option("--csv", type=click.Path(), help="One row an example and threat, comma-separated.")
@click.option("--parquet", type=click.Path(), help="The same as Parquet (extra: frames).")
@click.option("--npz", type=click.Path(), help="Clean and adversarial inputs, labels, rows, verdicts, sizes.")
@click.option("--png", type=click.Path(), help="Folder for pictures of what was broken, examined after rounding.")
@click.option("--card", type=click.Path(), help="Section of a model card, Markdown, with the claims that hold.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Pictures of each threat.")
@click.option("--source", help="Model and data as after `trustbound audit`, e.g. 'fc:w.safetensors --data digits'.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def export_command(
    run: str,
    csv: str | None,
    parquet: str | None,
    npz: str | None,
    png: str | None,
    card: str | None,
    limit: int,
    source: str | None,
    force: bool,
) -> None:
    """Write the finished audit in the directory RUN as tables, arrays, pictures or a model card.

    Arrays and pictures take the data that was audited, and pictures the model: both are read by the audit's own
    command, or by --source where files have moved, the audit was made in Python, or the model's file is executed.
    """
    from trustbound.cli.source import named_by
    from trustbound.exports.exporting import check_targets, export
    from trustbound.record.record_file import read_record

    asked = {"csv": csv, "parquet": parquet, "npz": npz, "png": png, "card": card}
    targets = {name: Path(path) for name, path in asked.items() if path}
    check_targets(targets, force=force)
    record = read_record(run)
    model = data = None
    if npz or png:
        model, data, missing = named_by(record, source)
        if png and missing:
            click.echo(f"the pictures are not shown to the model: {missing}", err=True)
    for written in export(run, **targets, data=data, model=model, limit=limit, force=force):
        click.echo(f"{written.path}: {written.said}")
