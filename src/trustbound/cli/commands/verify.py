"""`trustbound verify`: one network, one property, one verdict."""

from __future__ import annotations

import click

from trustbound.cli.options import as_json


@click.command("verify")
@click.argument("model")
@click.argument("specification")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=120.0, show_default=True, help="Seconds."
)
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def verify_command(model: str, specification: str, timeout: float, json_output: bool) -> None:
    """Decide whether an input of SPECIFICATION, a VNN-LIB file, makes MODEL, an ONNX file say, answer unsafely.

    Prints `sat` and such an input in the form of VNN-COMP, `unsat` where it is proven that there is none, `timeout`, or
    `unknown`; why is said on stderr. Either file may be gzipped. Exit code 0 whatever the verdict.
    """
    from trustbound.certificates import verify

    try:
        found = verify(model, specification, timeout=timeout)
    except KeyboardInterrupt:
        click.echo(as_json({"verdict": "unknown", "reason": "stopped"}) if json_output else "unknown")
        raise
    if json_output:
        document: dict[str, object] = {"verdict": found.verdict, "reason": found.reason, "seconds": found.seconds}
        if found.witness is not None:
            document["witness"] = {
                "inputs": found.witness.inputs.tolist(),
                "outputs": found.witness.outputs.tolist(),
                "replayed": list(found.witness.replayed),
            }
        click.echo(as_json(document))
        return
    click.echo(found.text())
    where = f", measured again in {' and '.join(found.witness.replayed)}" if found.witness else ""
    click.echo(f"{found.reason}{where}; {found.seconds:.1f} s", err=True)
