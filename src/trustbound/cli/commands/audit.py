"""`trustbound audit`: the main job."""

from __future__ import annotations

import math
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trustbound.cli.options import (
    as_json,
    data_options,
    defence_options,
    model_options,
    read_data,
    read_model,
    read_part,
    read_threats,
    resolve_threats,
    threat_option,
)
from trustbound.engines.registry import ENGINES

if TYPE_CHECKING:
    from trustbound.data.labelled import LabelledSet
    from trustbound.model.wrapping import Model

_ENGINES = "Where it is computed: " + "; ".join(f"{row.name}, {row.line}" for row in ENGINES) + "."


@click.command("audit")
@model_options
@defence_options
@data_options
@threat_option
@click.option(
    "--budget",
    type=click.Choice(["quick", "standard", "thorough", "autoattack"]),
    help="How hard to search (default: standard).",
)
@click.option("--time", "time_limit", help="Keep to a time, e.g. 30s, 5m, 2h: what pays least is left out, and named.")
@click.option("--curve", type=click.IntRange(min=0), help="Examples of the security curve (0: none).")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes every random choice.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows per model call.")
@click.option("--engine", type=click.Choice(ENGINES.names), default=ENGINES.names[0], show_default=True, help=_ENGINES)
@click.option("--workers", type=click.IntRange(min=1), help="Processes of an engine that has them (default: cores).")
@click.option("--address", help="A Ray cluster that runs already.")
@click.option("--unit-size", type=click.IntRange(min=1), help="Examples of a work unit (default: by engine).")
@click.option("--training", "training", help="Training data, for the overlap check.")
@click.option("--run", type=click.Path(), help="Directory of the evidence; the same command goes on where it stopped.")
@click.option("--dry-run", is_flag=True, help="Try a few examples, and show each step and what it is likely to take.")
@click.option("--fail-under", type=click.FloatRange(0.0, 1.0), help="Exit 1 when an upper bound is below this.")
@click.option("--fail-under-lower", type=click.FloatRange(0.0, 1.0), help="Exit 1 when a lower bound is below this.")
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def audit_command(
    threats: tuple[str, ...],
    budget: str | None,
    time_limit: str | None,
    curve: int | None,
    seed: int,
    batch_size: int | None,
    engine: str,
    workers: int | None,
    address: str | None,
    unit_size: int | None,
    training: str | None,
    run: str | None,
    dry_run: bool,
    fail_under: float | None,
    fail_under_lower: float | None,
    json_output: bool,
    **options: Any,
) -> None:
    """Bracket the robust accuracy of MODEL and write the report.

    MODEL is zoo-name:weights.safetensors, a weights file, path/file.py:function, package.module:function, a
    torch.export program (.pt2), TorchScript, an ONNX file, or a scikit-learn, LightGBM or XGBoost file.
    """
    from rich.console import Console

    from trustbound.audits.compatibility import check_fit
    from trustbound.audits.gate import Thresholds, missed
    from trustbound.audits.planning.plan import choose, plan
    from trustbound.audits.run import audit
    from trustbound.cli.progress import AuditProgress
    from trustbound.cli.runs import chosen_before, default_run
    from trustbound.errors import InputError, UnsoundError
    from trustbound.record.record_file import json_view, read_record, write_record
    from trustbound.report import read_gallery, summary, write

    if budget is not None and time_limit is not None:
        raise InputError(f"--time chooses the budget; got --budget {budget} as well. Leave one out.")
    budget = budget or "standard"
    began = click.get_current_context().obj or time.perf_counter()
    parsed = read_threats(threats, options)
    model = read_model(options)
    known = _training(training, options, seed, model) if training else None
    data = read_data(options, seed, model)
    parsed = resolve_threats(parsed, options, data, known)
    check_fit(model, data, parsed)
    asked = [budget if time_limit is None else f"time {seconds(time_limit):g}", seed, curve, batch_size]
    folder = Path(run) if run is not None else default_run(model, data, parsed, asked, known)
    tried = None
    if time_limit is not None and (before := chosen_before(folder, data, seed)):
        budget, data = before
    elif time_limit is not None:
        budget, data, tried = choose(model, data, parsed, seconds(time_limit), curve, seed, batch_size, began)
    if dry_run:
        sketch = plan(model, data, parsed, budget, curve, batch_size, began, tried)
        click.echo(as_json(sketch.document()) if json_output else sketch.text())
        return
    try:
        with AuditProgress() as progress:
            record = audit(
                model,
                data,
                parsed,
                budget=budget,
                run=folder,
                seed=seed,
                curve_examples=curve,
                batch_size=batch_size,
                training=known,
                engine=engine,
                workers=workers,
                address=address,
                unit_size=unit_size,
                seconds=None if time_limit is None else max(seconds(time_limit) - (time.perf_counter() - began), 1e-3),
                tried=tried,
                progress=progress,
                command=shlex.join(["trustbound", *sys.argv[1:]]),
            )
    except UnsoundError as error:  # the record is written: its exit code is 3, its parameters are shown all the same
        click.echo(f"unsound: {error}", err=True)
        record = read_record(folder)
    misses = tuple(missed(record, Thresholds(upper=fail_under, lower=fail_under_lower)))
    if misses:
        record = replace(record, misses=misses, exit_code=record.exit_code or 1)
        write_record(folder, record)
    page = write(record, folder / "report.html", gallery=read_gallery(folder))
    for said in (
        *misses,
        *(event for event in record.events if ": left out for time: " in event or event.startswith("the time ")),
    ):
        click.echo(said, err=True)
    if json_output:
        click.echo(as_json({**json_view(record), "report": str(page)}))
    else:
        Console().print(summary(record))
        click.echo(f"report: {page}")
    sys.exit(record.exit_code)


def _training(source: str, options: dict[str, Any], seed: int, model: Model) -> LabelledSet:
    """All of the training data, its train split where it has one."""
    from trustbound.data.registry import DATA

    named = source in DATA.names and bool(DATA.find(source).files)
    chosen = {**options, "data": source, "limit": None, "data_dir": options["data_dir"] if named else None}
    return read_part(chosen, "train", seed, model)[0]


def seconds(text: str) -> float:
    """A span of time: 90s, 30m, 2h.

    >>> seconds("30m")
    1800.0
    """
    from trustbound.errors import InputError

    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:].lower())
    try:
        value = float(text[:-1] if unit else text) * (unit or 1.0)
    except ValueError:
        value = -1.0
    if not 0.0 < value < math.inf:
        raise InputError(f"--time takes a span like 90s, 30m or 2h; got {text!r}")
    return value
