"""Compatibility of a model, its examples and its threats: what does not fit is refused before the search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.refusals import check_shown
from trustbound.attacks.searching.request import check_batch, clean_outputs
from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError
from trustbound.model.wrapping import Model
from trustbound.threat import Access, Threat
from trustbound.threat.binding import bind, check_task

#: Examples looked at together.
PART = 1024


def check_fit(model: Model, data: LabelledSet, threats: Sequence[Threat]) -> int:
    """Refuse examples or threats that a model cannot be asked about; returns its number of outputs, or classes.

    Looks at    the box, the epsilon of each threat, what the model answers to two examples, the labels, the classes
                that a goal names.
    Cost        1 forward of two examples; the model is left as it came.
    Raises      InputError: inputs outside the model's box, inputs of a shape that it does not take, outputs that are
                no finite logits, labels or targets that are no class of it, an epsilon beyond the box, a threat
                that is asked about twice.

    >>> from trustbound.model.wrapping import wrap
    >>> data = LabelledSet(torch.rand(3, 4), [0, 1, 2])
    >>> check_fit(wrap(torch.nn.Linear(4, 3)), data, [Threat.parse("linf:0.1")])
    3
    """
    names = [str(threat) for threat in threats]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"each threat can be asked about once; got {', '.join(twice)} again. Leave the second one out."
        )
    if data.task.name != model.task.name:
        raise InputError(
            f"model and data must be of one task; the model's is {model.task.name}, the data's {data.task.name}. Pass "
            "task= to wrap or load_model (--task), and to load_data or LabelledSet."
        )
    if not data.task.agrees(model.task):
        raise InputError(
            f"model and data must say the same of their task; the model's is {model.task}, the data's {data.task}. "
            "Give both the same numbers, or leave out the data's."
        )
    _check_box(model, data)
    for threat in threats:
        check_task(threat.goal, model.task, decisions=threat.access is Access.DECISIONS)
        check_shown(model, threat)
        threat.perturbations.check(model.box, data.shape)
    rows = torch.arange(min(2, len(data)))
    inputs = data.batch(rows).to(model.device, model.input_dtype)
    with Oracle(model, examples=len(rows)) as oracle:
        outputs = clean_outputs(oracle, inputs)
    classes = outputs.shape[1]
    if model.task.plain:
        data.check_labels(classes)
    model.task.check_clean(outputs)
    model.task.check_fit(data.labels, tuple(outputs.shape[1:]))
    for threat in threats:
        bind(threat.goal, model.task, data.labels[:1], classes)
    return classes


def _check_box(model: Model, data: LabelledSet) -> None:
    limits = np.broadcast_shapes(np.shape(model.box.low), np.shape(model.box.high))
    try:
        fits = np.broadcast_shapes(limits, data.shape) == data.shape
    except ValueError:
        fits = False
    if not fits:
        raise InputError(
            f"the model's box must broadcast to one example of shape {data.shape}; it has limits of shape {limits}. "
            "Give a number or one limit for each feature."
        )
    for rows in torch.arange(len(data)).split(PART):
        check_batch(model, data.batch(rows), data.labels[rows])
