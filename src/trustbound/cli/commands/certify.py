"""`trustbound certify`: one certifier, one number."""

from __future__ import annotations

from typing import Any

import click

from trustbound.certificates.registry import CERTIFIERS
from trustbound.cli.options import (
    as_json,
    data_options,
    json_object,
    model_options,
    read_data,
    read_model,
    read_threats,
    resolve_threats,
    threat_option,
)


@click.command("certify")
@click.argument("name", type=click.Choice(CERTIFIERS.names))
@model_options
@data_options
@threat_option
@click.option("--params", help="The certifier's own parameters as JSON, e.g. '{\"memory\": 67108864}'.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Fixes which examples --limit draws, and the noise of certifiers that draw.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Examples proven at once.")
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def certify_command(
    name: str,
    threats: tuple[str, ...],
    params: str | None,
    seed: int,
    batch_size: int | None,
    json_output: bool,
    **options: Any,
) -> None:
    """Run the certifier NAME on MODEL: a lower bound on its robust accuracy."""
    import torch

    from trustbound.audits.compatibility import check_fit
    from trustbound.certificates import certify
    from trustbound.errors import InputError
    from trustbound.record.binomial import binomial_interval

    if len(threats) != 1:
        raise InputError(f"certify takes one --threat; got {len(threats)}. `audit` takes several.")
    read = read_threats(threats, options)
    given = json_object(params, "--params")
    model = read_model(options)
    data = read_data(options, seed, model)
    (threat,) = resolve_threats(read, options, data)
    check_fit(model, data, [threat])
    generator = torch.Generator().manual_seed(seed)
    labels = data.labels
    proof = certify(name, model, data.inputs, labels, threat, batch_size=batch_size, generator=generator, **given)
    total, certified = len(data), int(proof.certified.sum())
    low, high = binomial_interval(certified, total)
    document = {
        "certifier": name,
        "threat": str(threat),
        "n": total,
        "certified": certified,
        "lower": certified / total,
        "lower_interval": [low, high],
        "seconds": proof.seconds,
    }
    if proof.claim:
        document["claim"] = proof.claim
    broken = None if proof.falsified is None else int(proof.falsified.sum())
    if broken is not None:
        document["falsified"] = broken
    if json_output:
        click.echo(as_json(document))
        return
    said = f", {proof.claim}" if proof.claim else ""
    said += "" if broken is None else f", {broken} broken by a counterexample"
    click.echo(
        f"{name} under {threat}: {certified} of {total} proven ({certified / total:.1%}, 95 % interval {low:.1%} to "
        f"{high:.1%}){said}; {proof.seconds:.1f} s. What is not proven may still be robust."
    )
