"""`trustbound certify`: one certifier, one number; or the ranges of all outputs."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from torch import Tensor

    from trustbound.certificates import OutputRanges
    from trustbound.threat.threat import Threat

#: Lines of the table of ranges; all are in the JSON.
SHOWN = 20


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
@click.option("--ranges", is_flag=True, help="Bound every output from both sides, in place of the margins.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Examples proven at once.")
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def certify_command(
    name: str,
    threats: tuple[str, ...],
    params: str | None,
    seed: int,
    batch_size: int | None,
    ranges: bool,
    json_output: bool,
    **options: Any,
) -> None:
    """Run the certifier NAME on MODEL: a lower bound on its robust accuracy.

    With --ranges: between which limits each output stays, whatever the threat does to an input.
    """
    import torch

    from trustbound.audits.compatibility import check_fit
    from trustbound.certificates import certify, output_ranges
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
    if ranges:
        bounded = output_ranges(name, model, data.inputs, threat, batch_size=batch_size, **given)
        with torch.no_grad():
            outputs = torch.cat([model(part.to(model.device)) for part in data.inputs.split(batch_size or 256)])
        click.echo(as_json(_document(bounded, outputs, threat)) if json_output else _table(bounded, outputs, threat))
        return
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


def _document(found: OutputRanges, outputs: Tensor, threat: Threat) -> dict[str, Any]:
    """What is printed of ranges, as plain values (B, *O); infinite limits are null."""
    sides = {
        "outputs": outputs,
        "lower": found.lower,
        "upper": found.upper,
        "exact_lower": found.exact_lower,
        "exact_upper": found.exact_upper,
    }
    return {
        "certifier": found.name,
        "threat": str(threat),
        "n": len(outputs),
        **{name: _finite(side.tolist()) for name, side in sides.items()},
        "seconds": found.seconds,
    }


def _finite(values: Any) -> Any:
    if isinstance(values, list):
        return [_finite(value) for value in values]
    return values if isfinite(values) else None


def _table(found: OutputRanges, outputs: Tensor, threat: Threat) -> str:
    """A line for each output of the first examples, and what was bounded in all."""
    flat = [side.flatten(1).tolist() for side in (outputs, found.lower, found.upper)]
    lines = [f"{'example':>7}  {'output':>6}  {'clean':>12}  {'lower':>12}  {'upper':>12}  {'width':>12}"]
    for example, rows in enumerate(zip(*flat, strict=True)):
        for place, (clean, low, high) in enumerate(zip(*rows, strict=True)):
            if len(lines) <= SHOWN:
                said = "  ".join(f"{value:>12.6g}" for value in (clean, low, high, high - low))
                lines.append(f"{example:>7}  {place:>6}  {said}")
    left = outputs.numel() - (len(lines) - 1)
    lines += [f"{left:,} more outputs: --json has them all."] if left else []
    return "\n".join([*lines, f"{found!r}, under {threat}, as the model runs."])
