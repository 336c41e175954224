"""One attack on one batch of examples: the public call."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from trustbound.attacks.oracle import Oracle, default_batch_size, price_of
from trustbound.attacks.refusals import check_attack, check_numbers, check_options, check_request, check_shown
from trustbound.attacks.registry import ATTACKS
from trustbound.attacks.searching import Attack, Found, Watch, reached_by, search
from trustbound.attacks.window.scale import units
from trustbound.errors import InputError, ModelError
from trustbound.measure.inside import placed
from trustbound.model.wrapping import Model, wrap
from trustbound.record.cost import Cost
from trustbound.threat import Random, Threat, new_key


def build(name: str, **numbers: Any) -> Attack:
    """An attack by its registry name, with its numbers.

    >>> build("pgd", steps=10).steps
    10
    """
    return cast(Attack, ATTACKS.build(name, **numbers))


def check_batch(model: Model, inputs: Tensor, labels: Tensor) -> None:
    """Refuse examples that are no labelled batch inside the model's box."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.dim() < 2:
        came = f"{tuple(inputs.shape)} {inputs.dtype}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(f"`inputs` must be a float tensor (B, *F); got {came}")
    if not isinstance(labels, Tensor) or labels.shape != inputs.shape[:1] or labels.is_floating_point():
        came = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"`labels` must be int64 of shape ({len(inputs)},); got {came}")
    if not len(inputs):
        raise InputError("`inputs` must hold at least one example; got none")
    placed(inputs, model.box)
    if int(labels.min()) < 0:
        raise InputError(f"`labels` must be classes ≥ 0; got {int(labels.min())}")


def attack(
    name: str | Attack,
    model: Any,
    inputs: Tensor | np.ndarray[Any, Any],
    labels: Tensor | np.ndarray[Any, Any],
    threat: Threat | str,
    *,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    budget: int | None = None,
    stop_early: bool = True,
    compile: bool = False,
    ids: Tensor | np.ndarray[Any, Any] | None = None,
    donors: Tensor | None = None,
    watch: Watch | None = None,
    **numbers: Any,
) -> Found:
    """Attack examples and return what was found, each success checked by a fresh forward.

    Parameters
        name        registry name, or an attack of your own.
        model       whatever `wrap` takes.
        inputs      (B, *F) in the model's box, a tensor, or an array for arrays in what is found; what is outside by
                    rounding (1e-6 of its width) is put on the limit.
        labels      (B,) int64.
        threat      a Threat or its text form.
        generator   one 63-bit key is drawn from it; without one the key is 0.
        batch_size  rows per model call.
        budget      forwards allowed per example, those of the clean input and of the last check included.
        stop_early  stop an example at its first success.
        compile     compile the gradient function: seconds once, then faster on full batches.
        ids         (B,) identities for the per-example randomness, by default 0..B-1.
        donors      (D, *F) inputs of the data from which a search without scores may start.
        numbers     the attack's own numbers: steps, step_size, restarts, loss …

    Raises      InputError for examples, numbers or options that cannot be used, UnsupportedError for a threat
                that the attack cannot serve; both before the first model call. ModelError when the model raises.

    >>> model = wrap(torch.nn.Linear(2, 2))
    >>> found = attack("pgd", model, torch.rand(3, 2), torch.zeros(3, dtype=torch.int64), "linf:0.5", steps=3)
    >>> found.adversarial.shape, found.cost.backwards <= 9
    (torch.Size([3, 2]), True)
    """
    model = wrap(model) if not isinstance(model, Model) else model
    threat = Threat.parse(threat)
    arrays = isinstance(inputs, np.ndarray)
    inputs, labels = cast(Tensor, _tensor(inputs)), cast(Tensor, _tensor(labels))
    ids = cast("Tensor | None", _tensor(ids))
    check_shown(model, threat)
    check_batch(model, inputs, labels)
    threat.allowed.check(model.box, tuple(inputs.shape[1:]))
    if isinstance(name, str):
        check_request(ATTACKS.find(name), threat)
        method = build(name, **numbers)
    else:
        if numbers:
            raise InputError(
                f"an attack that comes as an object has its own numbers; got {', '.join(numbers)} beside it"
            )
        method = name
        check_attack(method, threat)
    check_numbers(method)
    check_options(len(inputs), ids, batch_size, budget, price_of(model))
    donors = None if donors is None else _donated(donors, inputs, model)
    key = new_key(generator)
    inputs = placed(inputs.to(model.device, model.input_dtype), model.box)
    labels = labels.to(model.device, torch.int64)
    names = torch.arange(len(inputs)) if ids is None else ids
    rows_per_call = batch_size or default_batch_size(model)
    # Where nothing is dropped, whole batches stay in the cache; where it is, many rows keep calls full.
    share = rows_per_call if not stop_early else max(rows_per_call, 1024)
    parts = []
    for first in range(0, len(inputs), share):
        rows = slice(first, first + share)
        with Oracle(
            model,
            examples=len(inputs[rows]),
            access=threat.access,
            batch_size=rows_per_call,
            budget=budget,
            compile=compile,
            key=key + first,
            task=name if isinstance(name, str) else type(name).__name__,
            names=torch.arange(first, first + len(inputs[rows])),
        ) as oracle:
            clean = clean_outputs(oracle, inputs[rows])
            check_clean(clean, labels[rows])
            objective = threat.goal.bind(labels[rows], clean.shape[1])
            parts.append(
                search(
                    method,
                    oracle,
                    threat.allowed.around(inputs[rows], model.box),
                    objective,
                    Random(key, names[rows].to(inputs.device, torch.int64)),
                    reached=reached_by(
                        oracle, objective, inputs[rows], clean, torch.arange(len(clean), device=clean.device)
                    ),
                    unit=units(clean),
                    donors=donors,
                    stop_early=stop_early,
                    watch=watch,
                )
            )
    found = joined(parts)
    return found.numpy() if arrays else found


def _tensor(values: Any) -> Any:
    """An array of numbers as a tensor of its own, whatever its strides and byte order; anything else as it is."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return torch.from_numpy(values.astype(np.float32 if values.dtype.itemsize <= 4 else np.float64, order="C"))
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return torch.from_numpy(values.astype(np.int64, order="C"))
    return values


def _donated(donors: Tensor, inputs: Tensor, model: Model) -> Tensor:
    """Donors in the model's box and dtype, refused where they are no inputs."""
    if not isinstance(donors, Tensor) or donors.shape[1:] != inputs.shape[1:] or not donors.is_floating_point():
        came = f"{tuple(donors.shape)} {donors.dtype}" if isinstance(donors, Tensor) else type(donors).__name__
        raise InputError(f"`donors` must be inputs (D, {', '.join(map(str, inputs.shape[1:]))}) like those; got {came}")
    return placed(donors.to(model.device, model.input_dtype), model.box)


def clean_outputs(oracle: Oracle, inputs: Tensor) -> Tensor:
    """What the model answers to clean inputs (B, *F); its own error becomes one that says what it was asked.

    Raises      InputError when the model does not take inputs of this shape; ModelError when it takes one of them.
    """
    try:
        return oracle.outputs(inputs, torch.arange(len(inputs), device=inputs.device))
    except ModelError as error:
        if _answers_one(oracle.model, inputs):
            raise
        cause = error.__cause__ or error
        first = (str(cause).splitlines() or ["no message"])[0]
        raise InputError(
            f"the model must accept inputs of shape {('B', *inputs.shape[1:])}; called with {tuple(inputs.shape)} it "
            f"raised {type(cause).__name__}: {first}. Check that this data is what the model was made for (for "
            "pictures see --resize and --crop)."
        ) from cause


def _answers_one(model: Model, inputs: Tensor) -> bool:
    """Whether the first of several inputs is answered when it is asked about alone."""
    if len(inputs) == 1:
        return False
    try:
        with torch.no_grad():
            model(inputs[:1])
    except Exception:  # it is told of already
        return False
    return True


def check_clean(outputs: Tensor, labels: Tensor) -> None:
    """Refuse clean outputs (B, C) that are no finite numbers, and labels that the model cannot answer."""
    broken = ~torch.isfinite(outputs).all(dim=1)
    if bool(broken.any()):
        raise InputError(
            f"the model must answer clean inputs with finite logits; {int(broken.sum())} of {len(outputs)} "
            f"rows hold NaN or infinity, the first at row {int(broken.nonzero()[0])}. Check the weights and "
            "the box."
        )
    if int(labels.max()) >= outputs.shape[1]:
        raise InputError(
            f"`labels` must be classes 0..{outputs.shape[1] - 1}, as many as the model's outputs; "
            f"got {int(labels.max())}"
        )


def joined(parts: list[Found]) -> Found:
    """The rows of several searches, one after another."""
    if len(parts) == 1:
        return parts[0]
    tensors = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Found)
        if isinstance(getattr(parts[0], field.name), Tensor)
    }
    cost = sum((part.cost for part in parts), Cost())
    return Found(**tensors, cost=cost, events=tuple(event for part in parts for event in part.events))
