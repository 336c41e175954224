"""`trustbound train`: weights from a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trustbound.cli.options import as_json, data_options, json_object, read_part
from trustbound.hardening.registry import OBJECTIVES
from trustbound.model.registry import ZOO

if TYPE_CHECKING:
    from trustbound.data.labelled import LabelledSet
    from trustbound.hardening.history import Trained
    from trustbound.hardening.recipe import Recipe
    from trustbound.model.wrapping import Model


@click.command("train")
@click.argument("architecture", type=click.Choice(ZOO.names))
@data_options
@click.option("--out", required=True, type=click.Path(), help="Where the weights go (.safetensors).")
@click.option("--objective", type=click.Choice(OBJECTIVES.names), help="What to do well on.")
@click.option("--params", help="The objective's own parameters as JSON, e.g. '{\"steps\": 7}'.")
@click.option("--threat", help="What to train against, e.g. linf:8/255.")
@click.option("--recipe", help="A named recipe to start from (default: the recipe's own defaults).")
@click.option("--epochs", type=click.IntRange(min=1))
@click.option("--batch-size", type=click.IntRange(min=1))
@click.option("--optimizer", type=click.Choice(["adam", "sgd"]))
@click.option("--learning-rate", type=float)
@click.option("--schedule", type=click.Choice(["constant", "cosine", "one-cycle", "cyclic"]))
@click.option("--weight-decay", type=float)
@click.option("--arguments", help="JSON arguments for the architecture (default: shape and classes of the data).")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Initial weights, order, starts."
)
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--run", type=click.Path(), help="Directory of the checkpoint; the same command goes on where it stopped."
)
@click.option("--json", "json_output", is_flag=True, help="One JSON object on stdout.")
def train_command(
    architecture: str,
    out: str,
    objective: str | None,
    params: str | None,
    threat: str | None,
    recipe: str | None,
    arguments: str | None,
    seed: int,
    device: str,
    run: str | None,
    json_output: bool,
    **options: Any,
) -> None:
    """Train ARCHITECTURE of the zoo on the train split, watch it on the test split, save its weights."""
    from trustbound.errors import InputError
    from trustbound.hardening import train
    from trustbound.model import save_model

    fields = ("epochs", "batch_size", "optimizer", "learning_rate", "schedule", "weight_decay")
    changes = {name: value for name in fields if (value := options.pop(name)) is not None}
    plan = _recipe(recipe, objective, params, threat, {**changes, "seed": seed})
    if options.pop("split") is not None:
        raise InputError("train learns on the split train and is watched on test; leave --split out")
    data, parts = read_part(options, "train", seed)
    validation = read_part(options, "test", seed)[0] if parts else None
    if validation is None:
        click.echo(f"{options['data']} has no parts: all of it is trained on, and nothing is left to test on", err=True)
    model = _model(architecture, data, arguments, seed)
    bar = _Line(enabled=sys.stderr.isatty())
    trained = train(model, data, plan, run=run, progress=bar.show, device=device, validation=validation)
    bar.end()
    path = save_model(trained.model, Path(out), class_names=data.class_names)
    click.echo(as_json(_document(trained, path)) if json_output else _text(trained, path))


def _recipe(
    name: str | None, objective: str | None, params: str | None, threat: str | None, changes: dict[str, Any]
) -> Recipe:
    from trustbound.errors import InputError
    from trustbound.hardening import Recipe, named_recipe
    from trustbound.hardening.objectives import build

    given = json_object(params, "--params")
    if given and objective is None:
        raise InputError("--params belongs to an objective; say which with --objective")
    if objective is not None:
        changes["objective"] = build(objective, **given)
    if threat is not None:
        changes["threat"] = threat
    return named_recipe(name, **changes) if name else Recipe(**changes)


def _model(architecture: str, data: LabelledSet, arguments: str | None, seed: int) -> Model:
    import torch

    from trustbound import wrap
    from trustbound.model import build

    classes = len(data.class_names) if data.class_names else int(data.labels.max()) + 1
    given = json_object(arguments, "--arguments")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(architecture, **{"input_shape": list(data.shape), "classes": classes, **given})
    return wrap(module, box=data.box, name=architecture, input_shape=tuple(data.shape), classes=classes)


class _Line:
    """One line on stderr that says where the training stands."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled

    def show(self, progress: Any) -> None:
        """Draw it."""
        if self.enabled:
            left = "" if progress.eta is None else f", {progress.eta:.0f} s left"
            click.echo(
                f"\repoch {progress.epoch}/{progress.epochs}, step {progress.step}/{progress.steps}, "
                f"loss {progress.loss:.4f}{left}   ",
                err=True,
                nl=False,
            )

    def end(self) -> None:
        """Leave the line."""
        if self.enabled:
            click.echo("", err=True)


def _document(trained: Trained, path: Path) -> dict[str, Any]:
    from trustbound.record.codec import to_document

    return {
        "weights": str(path),
        "recipe": trained.recipe.to_json(),
        "history": to_document(trained.history),
        "events": to_document(trained.events),
        "cost": to_document(trained.cost),
        "probe_cost": to_document(trained.probe_cost),
        "evaluations_per_image": trained.evaluations_per_image,
    }


def _text(trained: Trained, path: Path) -> str:
    last = next(epoch for epoch in reversed(trained.history) if epoch.kept)
    parts = [f"{len(trained.history)} epochs, loss {last.loss:.4f}"]
    if last.validation_accuracy is not None:
        parts.append(f"test accuracy {last.validation_accuracy:.1%}")
    if last.probe_robust_accuracy is not None:
        parts.append(f"under the PGD probe {last.probe_robust_accuracy:.1%}")
    events = [f"epoch {event.epoch}: {event.text}" for event in trained.events]
    return "\n".join([", ".join(parts), *events, f"weights: {path}"])
