"""Train a network by a recipe: the public call."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError, RecordError
from trustbound.hardening.history import Progress, Trained
from trustbound.hardening.recipe import Recipe
from trustbound.hardening.training import checkpoint
from trustbound.hardening.training.fabric import launched
from trustbound.hardening.training.loop import Loop
from trustbound.hardening.training.modes import Modes, measuring
from trustbound.model.wrapping import Model, wrap


def train(
    model: Model | nn.Module,
    data: LabelledSet,
    recipe: Recipe,
    *,
    run: str | Path | None = None,
    resume: bool = True,
    progress: Callable[[Progress], None] | None = None,
    device: str | torch.device = "cpu",
    validation: LabelledSet | None = None,
    save_seconds: float = 30.0,
) -> Trained:
    """Train a model in place and return it with its history.

    Parameters
        model       what to train, from the weights it has; a bare module is given the data's box.
        data        labelled examples; kept as they are, converted batch by batch.
        run         directory for the checkpoint; without it nothing is written.
        resume      continue the checkpoint of the same recipe, data and model; False starts over.
        progress    called with a `Progress` about ten times a second and at the end of each epoch.
        device      cpu, cuda or cuda:N; the model is moved there and stays.
        validation  examples whose clean accuracy is measured after each epoch; never trained on.
        save_seconds    time between two checkpoints within an epoch; each epoch ends with one. The weights
                    that come out do not depend on it.

    Same        the same call gives the same bits on a CPU (equal threads and versions), killed and resumed or
                not, wherever it was killed. On a GPU it does as far as its kernels are deterministic.
    Modes       train mode, except for parts that come in eval mode beside others in train mode and for parts whose
                weights are all frozen: their batch norms keep their statistics, their dropout drops nothing.
    Leaves      the model in eval mode without gradients; global random state as it was. After an error the
                modes are as they came and the weights as far as training had got.
    Raises      InputError for what cannot be trained, RecordError for a run directory that cannot be used or
                belongs to another training, MissingDependencyError without lightning-fabric; all before the
                first step. InputError when the loss stops being finite.

    >>> torch.manual_seed(0) and None
    >>> data = LabelledSet(torch.rand(40, 4), [0, 1] * 20)
    >>> trained = train(nn.Linear(4, 2), data, Recipe(epochs=2, batch_size=10))
    >>> len(trained.history), trained.cost.forwards, trained.model.training
    (2, 80, False)
    """
    if not isinstance(data, LabelledSet):
        raise InputError(
            f"`data` must be a LabelledSet; got {type(data).__name__}. Make one with "
            "LabelledSet(inputs, labels), LabelledSet.from_dataset(dataset) or load_data(name)."
        )
    model = model if isinstance(model, Model) else wrap(model, box=data.box)
    place = _device(device)
    _check(model, data, recipe, validation)
    folder = None if run is None else Path(run)
    modes = Modes(model)
    with contextlib.ExitStack() as exits:
        engine = exits.enter_context(launched(recipe, place))
        if folder is not None and engine.rank == 0:
            exits.enter_context(checkpoint.opened(folder))
        loop = Loop(
            model,
            data,
            recipe,
            engine,
            run=folder,
            validation=validation,
            progress=progress,
            save_seconds=save_seconds,
            modes=modes,
        )
        if folder is not None and resume and (content := checkpoint.load(folder)) is not None:
            _check_same(content, model, data, recipe, folder)
            loop.restore(content)
        try:
            loop.run()
        except BaseException:
            modes.restore()
            raise
    model.eval()
    model._sha256 = None  # a digest of the file it was loaded from no longer describes its weights
    stand = loop.stand
    return Trained(
        model=model,
        recipe=recipe,
        history=tuple(stand.history),
        events=tuple(stand.events),
        cost=stand.cost,
        probe_cost=stand.probe_cost,
        examples=stand.examples,
    )


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"`device` must be cpu, cuda or cuda:N; got {device!r}") from error
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"`device` must be cpu, cuda or cuda:N; got {device!r}")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"`device` must exist; got {device!r}, and no CUDA device is to be seen. Use cpu.")
    return place


def _check(model: Model, data: LabelledSet, recipe: Recipe, validation: LabelledSet | None) -> None:
    """Refuse what cannot be trained, before the first step."""
    if not isinstance(recipe, Recipe):
        raise InputError(f"`recipe` must be a Recipe; got {type(recipe).__name__}")
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError(
            f"the model must have a weight to train; {model.name} has none that requires a gradient. Call "
            "requires_grad_(True) on what is to be trained."
        )
    sets = {"data": data} | ({} if validation is None else {"validation": validation})
    for name, one in sets.items():
        if one.box != model.box:
            raise InputError(
                f"`{name}` and model must have one box; got {one.box} and {model.box}. Wrap the model with the "
                "data's box, or load the data with the model's."
            )
        if one.shape != data.shape:
            raise InputError(f"`validation` must have examples of shape {data.shape}; got {one.shape}")
    if recipe.against is not None and recipe.against.perturbations.per_column:
        raise InputError(
            f"training takes one radius in input units for all values; got {recipe.against.perturbations}. Scale the "
            "columns first, or train with one."
        )
    if recipe.against is not None:
        recipe.against.perturbations.check(model.box, tuple(data.batch([0])[0].shape))
    if recipe.augmentation and (len(data.shape) != 3 or not isinstance(data.box.low, float)):
        raise InputError(
            "augmentation needs pictures (C, H, W) in a box with one lower limit for all features; got shape "
            f"{data.shape} and box {data.box}. Train without augmentation."
        )
    if recipe.devices > 1 and recipe.batch_size < 2 * recipe.devices:
        raise InputError(f"`batch_size` must be at least 2 · devices = {2 * recipe.devices}; got {recipe.batch_size}")
    _check_outputs(model, data, sets)


def _check_outputs(model: Model, data: LabelledSet, sets: Mapping[str, LabelledSet]) -> None:
    """One forward pass on two examples, in eval mode and without a trace; classes alone are trained for."""
    for task in (model.task, *(one.task for one in sets.values())):
        if not task.plain:
            raise InputError(
                f"the training objectives are those of a classification; got the task {task.name}. Train the module "
                "yourself, as in examples/regression_diabetes.py, and audit it."
            )
    inputs = data.batch(slice(0, 2)).to(model.device)
    try:
        with measuring(model), Oracle(model, examples=len(inputs)) as oracle:
            outputs = oracle.outputs(inputs, torch.arange(len(inputs)))
    except RuntimeError as error:
        raise InputError(
            f"the model must accept examples of shape {data.shape}; {model.name} refuses them: "
            f"{str(error.__cause__ or error).splitlines()[0]}"
        ) from error
    if not bool(torch.isfinite(outputs).all()):
        raise InputError("the model must start from finite weights; its first outputs hold NaN or infinity")
    for one in sets.values():
        one.check_labels(outputs.shape[1])


def _check_same(content: Mapping[str, Any], model: Model, data: LabelledSet, recipe: Recipe, folder: Path) -> None:
    """Refuse to continue another training."""
    before, now = json.loads(content["recipe"]), json.loads(json.dumps(recipe.to_json()))
    other = [f"{name} {before.get(name)} → {now[name]}" for name in now if now[name] != before.get(name)]
    if content["data"] != data.sha256:
        other.append("other training examples")
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if {name: tuple(tensor.shape) for name, tensor in content["now"]["weights"].items()} != shapes:
        other.append("a model with other weights")
    if other:
        raise RecordError(
            f"{folder} holds the checkpoint of another training ({'; '.join(other)}). Give the same recipe, data "
            "and model to continue it, another run directory, or resume=False to start over."
        )
