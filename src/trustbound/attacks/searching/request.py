"""What an attack is asked: examples, a threat and a method, all of them checked before the first model call."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from trustbound.attacks.model_access.oracle import Oracle, default_batch_size, price_of
from trustbound.attacks.refusals import check_attack, check_options, check_params, check_request, check_shown
from trustbound.attacks.registry import ATTACKS
from trustbound.attacks.shared.perturbation import SharedPerturbation
from trustbound.errors import InputError, ModelError
from trustbound.metrics.in_box import placed
from trustbound.model.wrapping import Model, wrap
from trustbound.tasks.task import Task
from trustbound.threat import Threat, new_key


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """Examples of a model, on its device and inside its box, and the method that is to serve the threat on them.

    Shapes      inputs (B, *F), labels (B, *L) of the model's task; ids (B,) int64: who each example is to the
                per-example randomness; names (B,) int64: its row, as errors call it.
    """

    name: str
    method: Any
    model: Model
    inputs: Tensor
    labels: Tensor
    threat: Threat
    ids: Tensor
    names: Tensor
    key: int
    batch_size: int
    budget: int | None = None
    compile: bool = False

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, rows: Tensor) -> Request:
        """The same of some of the examples."""
        chosen = {name: getattr(self, name)[rows] for name in ("inputs", "labels", "ids", "names")}
        return self.with_(**chosen)

    def with_(self, **changes: Any) -> Request:
        """A copy with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def oracle(self, rows: slice, *, key: int) -> Oracle:
        """The window to the model for some of the examples."""
        return Oracle(
            self.model,
            examples=len(self.inputs[rows]),
            access=self.threat.access,
            batch_size=self.batch_size,
            budget=self.budget,
            compile=self.compile,
            key=key,
            task=self.name,
            names=self.names[rows],
        )


def requested(
    name: Any,
    model: Any,
    inputs: Tensor | np.ndarray[Any, Any],
    labels: Tensor | np.ndarray[Any, Any],
    threat: Threat | str,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    budget: int | None = None,
    compile: bool = False,
    ids: Tensor | np.ndarray[Any, Any] | None = None,
    params: dict[str, Any],
) -> Request:
    """The request, once nothing in it has to be refused.

    Raises      InputError for examples, parameters or options that cannot be used, UnsupportedError for a threat that
                the attack cannot serve.
    """
    model = wrap(model) if not isinstance(model, Model) else model
    threat = Threat.parse(threat)
    inputs, labels, ids = (cast(Tensor, as_tensor(values)) for values in (inputs, labels, ids))
    if not isinstance(compile, bool):
        raise InputError(f"`compile` must be True or False; got {compile!r}")
    check_shown(model, threat)
    check_batch(model, inputs, labels)
    shape = tuple(inputs.shape[1:])
    threat.perturbations.check(model.box, shape)
    if isinstance(name, str):
        check_request(ATTACKS.find(name), threat, model.task)
        method = ATTACKS.build(name, **params)
    else:
        if params:
            raise InputError(
                f"an attack that comes as an object has its own parameters; got {', '.join(params)} beside it"
            )
        method = name
        check_attack(method, threat, model.task)
        if isinstance(method, SharedPerturbation):
            method.check(threat, model.box, shape)
    check_params(method, model.task)
    check_options(len(inputs), ids, batch_size, budget, price_of(model), evaluations=5 if fits(method) else 2)
    return Request(
        name=name if isinstance(name, str) else type(name).__name__,
        method=method,
        model=model,
        inputs=placed(inputs.to(model.device, model.input_dtype), model.box),
        labels=model.task.checked_labels(labels).to(model.device),
        threat=threat,
        ids=(torch.arange(len(inputs)) if ids is None else ids).to(model.device, torch.int64),
        names=torch.arange(len(inputs), device=model.device),
        key=new_key(generator, seed),
        batch_size=batch_size or default_batch_size(model),
        budget=budget,
        compile=compile,
    )


def fits(method: Any) -> bool:
    """Whether a method fits one perturbation to many examples.

    >>> fits(ATTACKS.build("uap")), fits(ATTACKS.build("pgd"))
    (True, False)
    """
    return bool(getattr(method, "shared", False))


def check_batch(model: Model, inputs: Tensor, labels: Tensor) -> None:
    """Refuse examples that are no labelled batch inside the model's box."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.dim() < 2:
        came = f"{tuple(inputs.shape)} {inputs.dtype}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(f"`inputs` must be a float tensor (B, *F); got {came}")
    like = isinstance(labels, Tensor) and labels.shape[:1] == inputs.shape[:1]
    if not like or (model.task.plain and (labels.dim() != 1 or labels.is_floating_point())):
        came = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        kind = f"int64 of shape ({len(inputs)},)" if model.task.plain else f"a tensor of {len(inputs)} labels"
        raise InputError(f"`labels` must be {kind}; got {came}")
    if not len(inputs):
        raise InputError("`inputs` must hold at least one example; got none")
    placed(inputs, model.box)
    if not model.task.plain:
        model.task.checked_labels(labels)
    elif int(labels.min()) < 0:
        raise InputError(f"`labels` must be classes ≥ 0; got {int(labels.min())}")


def as_tensor(values: Any) -> Any:
    """An array of numbers as a tensor of its own, whatever its strides and byte order; anything else as it is."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return torch.from_numpy(values.astype(np.float32 if values.dtype.itemsize <= 4 else np.float64, order="C"))
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return torch.from_numpy(values.astype(np.int64, order="C"))
    return values


def donated(donors: Tensor, inputs: Tensor, model: Model) -> Tensor:
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
        if _answers_one(oracle, inputs):
            raise
        cause = error.__cause__ or error
        first = (str(cause).splitlines() or ["no message"])[0]
        raise InputError(
            f"the model must accept inputs of shape {('B', *inputs.shape[1:])}; called with {tuple(inputs.shape)} it "
            f"raised {type(cause).__name__}: {first}. Check that this data is what the model was made for (for "
            "pictures see --resize and --crop)."
        ) from cause


def _answers_one(oracle: Oracle, inputs: Tensor) -> bool:
    """Whether the first of several inputs is answered when it is asked about alone."""
    if len(inputs) == 1:
        return False
    try:
        oracle.outputs(inputs[:1], torch.zeros(1, dtype=torch.int64, device=inputs.device))
    except ModelError:  # it is told of already
        return False
    return True


def check_clean(task: Task, outputs: Tensor, labels: Tensor) -> None:
    """Refuse clean outputs (B, *O) that are no finite numbers, and labels that do not belong to such outputs."""
    task.check_clean(outputs)
    task.check_fit(labels, tuple(outputs.shape[1:]))
