"""`trustbound lipschitz`: the layer table, and how fast the whole can and does change."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from trustbound.certificates.registry import CERTIFIERS
from trustbound.cli.options import as_json, data_options, model_options, read_data, read_model

if TYPE_CHECKING:
    from trustbound.certificates import LipschitzResult


@click.command("lipschitz")
@model_options
@data_options
@click.option(
    "--norm",
    "norms",
    multiple=True,
    type=click.Choice(CERTIFIERS.find("lipschitz").norms),
    help="Of inputs and logits alike; may be repeated (default: l2).",
)
@click.option("--threat", help="linf:8/255, l2:0.5 …: how fast can the logits change inside it, around each example?")
@click.option("--semidefinite", is_flag=True, help="Bound the whole by LipSDP too: small chains of layers.")
@click.option("--steps", type=click.IntRange(min=1), default=60, show_default=True, help="Of the ascent from below.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Fixes which examples --limit draws, and where the ascent starts.",
)
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def lipschitz_command(
    norms: tuple[str, ...],
    threat: str | None,
    semidefinite: bool,
    steps: int,
    seed: int,
    json_output: bool,
    **options: Any,
) -> None:
    """Bound how fast the logits of MODEL can change: each layer, their product, and what two inputs attain.

    The ascent starts from the data (64 examples unless --limit says otherwise) and from random points. Large bounds do
    not mean that adversarial examples exist; small ones prove that there are none.
    """
    from trustbound.certificates import lipschitz

    model = read_model(options)
    options["limit"] = options["limit"] or 64
    data = read_data(options, seed, model)
    found = lipschitz(
        model, data.inputs, threat, norms=norms or None, semidefinite=semidefinite, steps=steps, seed=seed
    )
    click.echo(as_json(_document(found)) if json_output else repr(found))


def _document(found: LipschitzResult) -> dict[str, Any]:
    """What is printed, as plain values; infinite bounds are null."""
    return {
        "layers": [
            {
                "name": row.name,
                "kind": row.kind,
                "size": list(row.size),
                "stride": None if row.stride is None else list(row.stride),
                "upper": None if row.upper is None else _finite(row.upper),
                "gain": _finite(row.gain),
            }
            for row in found.layers
        ],
        "upper": _finite(found.upper),
        "lower": _finite(found.lower),
        "ratio": _finite(found.ratio),
        "semidefinite": None if found.semidefinite is None else _number(found.semidefinite),
        "threat": None if found.threat is None else str(found.threat),
        "local": None if found.local is None else [_number(bound) for bound in found.local.tolist()],
        "seconds": found.seconds,
    }


def _finite(numbers: Any) -> dict[str, float | None]:
    return {norm: _number(number) for norm, number in numbers.items()}


def _number(number: float) -> float | None:
    return number if isfinite(number) else None
