"""`trustbound gate`: does a finished audit meet what a release needs?"""

from __future__ import annotations

import sys

import click


@click.command("gate")
@click.argument("run", type=click.Path())
@click.option("--threat", default="", help="The threat asked about (default: every one that was audited).")
@click.option("--clean", type=click.FloatRange(0.0, 1.0), help="Least clean accuracy.")
@click.option("--upper", type=click.FloatRange(0.0, 1.0), help="Least unbroken share.")
@click.option("--lower", type=click.FloatRange(0.0, 1.0), help="Least certified share.")
def gate_command(run: str, threat: str, clean: float | None, upper: float | None, lower: float | None) -> None:
    """Exit 0 when the audit in RUN meets every threshold, 1 when it misses one, 3 when it is not to be trusted."""
    from trustbound.audits.gate import Thresholds, missed
    from trustbound.errors import InputError
    from trustbound.record.record_file import read_record

    if clean is None and upper is None and lower is None:
        raise InputError("gate needs at least one of --clean, --upper, --lower")
    record = read_record(run)
    if threat and threat not in [bracket.threat for bracket in record.brackets]:
        from trustbound.threat import Threat

        threat = str(Threat.parse(threat))
    if record.exit_code == 3:
        click.echo("not to be trusted: a check failed; see the report", err=True)
        sys.exit(3)
    misses = missed(record, Thresholds(clean=clean, upper=upper, lower=lower, threat=threat))
    for miss in misses:
        click.echo(miss, err=True)
    click.echo("missed" if misses else "met")
    sys.exit(1 if misses else 0)
