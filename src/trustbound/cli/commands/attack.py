"""`trustbound attack`: one attack, one number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trustbound.attacks.registry import ATTACKS
from trustbound.cli.options import (
    as_json,
    data_options,
    defence_options,
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

    from trustbound.attacks import AttackResult
    from trustbound.data.labelled import LabelledSet


@click.command("attack")
@click.argument("name", type=click.Choice(ATTACKS.names))
@model_options
@defence_options
@data_options
@threat_option
@click.option("--params", help="The attack's own parameters as JSON, e.g. '{\"steps\": 100}'.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes every random choice.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows per model call.")
@click.option("--save", type=click.Path(), help="Write inputs, adversarial, labels, rows … to this .safetensors file.")
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def attack_command(
    name: str,
    threats: tuple[str, ...],
    params: str | None,
    seed: int,
    batch_size: int | None,
    save: str | None,
    json_output: bool,
    **options: Any,
) -> None:
    """Run the attack NAME on MODEL: an upper bound on its robust accuracy."""
    import torch

    from trustbound.attacks import attack
    from trustbound.attacks.searching.loop import fooling
    from trustbound.audits.compatibility import check_fit
    from trustbound.errors import InputError
    from trustbound.record.binomial import binomial_interval
    from trustbound.record.codec import to_document
    from trustbound.record.disk.atomic import write_atomically

    if len(threats) != 1:
        raise InputError(f"attack takes one --threat; got {len(threats)}. `audit` takes several.")
    read = read_threats(threats, options)
    given = json_object(params, "--params")
    model = read_model(options)
    data = read_data(options, seed, model)
    (threat,) = resolve_threats(read, options, data)
    check_fit(model, data, [threat])
    generator = torch.Generator().manual_seed(seed)
    labels = data.labels
    found = attack(name, model, data.inputs, labels, threat, generator=generator, batch_size=batch_size, **given)
    total, unbroken = len(data), int((~found.success).sum())
    low, high = binomial_interval(unbroken, total)
    if save:
        from safetensors.torch import save as as_bytes

        tensors = saved(data, found)
        told = {"attack": name, "threat": str(threat), "params": json.dumps(given), "seed": str(seed)}
        told |= {"model": model.sha256, "data": data.sha256}
        write_atomically(Path(save), lambda path: path.write_bytes(as_bytes(tensors, metadata=told)))
    document = {
        "attack": name,
        "threat": str(threat),
        "n": total,
        "unbroken": unbroken,
        "upper": unbroken / total,
        "upper_interval": [low, high],
        "cost": to_document(found.cost),
        "events": list(found.events),
    }
    shared = fooling(found)
    if shared is not None:
        document["shared"] = {half: {"fooled": fooled, "of": count} for half, (fooled, count) in shared.items()}
    if json_output:
        click.echo(as_json(document))
        return
    click.echo(
        f"{name} under {threat}: {unbroken} of {total} unbroken ({unbroken / total:.1%}, 95 % interval {low:.1%} to "
        f"{high:.1%}); {found.cost.forwards:,} forwards, {found.cost.backwards:,} backwards, "
        f"{found.cost.seconds:.1f} s. What is unbroken is not proven."
    )
    for half, (fooled, count) in (shared or {}).items():
        click.echo(f"{name}: one perturbation, which fooled {fooled} of the {count} rightly answered {half}")


def saved(data: LabelledSet, found: AttackResult) -> dict[str, Tensor]:
    """What `--save` writes, row i of each about the same example.

    `success` says where the goal is reached, also without a change; `broken` where it takes one. `sizes` are of the
    change, float64, infinite where a smallest one was sought and none found.
    """
    changed = found.size > 0
    tensors = {
        "rows": data.indices,
        "inputs": data.inputs,
        "labels": data.labels,
        "adversarial": found.adversarial,
        "success": found.success,
        "broken": found.success & changed,
        "sizes": found.size,
        "predictions": found.prediction,
    }
    if found.perturbation is not None and found.fitted is not None:
        tensors |= {"perturbation": found.perturbation, "fitted": found.fitted}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
