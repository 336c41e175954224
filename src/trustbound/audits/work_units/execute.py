"""Carry out one work unit: a pure function of the unit and its subject."""

from __future__ import annotations

import dataclasses
from typing import Any

from trustbound.audits.work_units.registry import KINDS
from trustbound.audits.work_units.subject import Subject
from trustbound.audits.work_units.unit import UnitResult, WorkUnit


def execute(unit: WorkUnit, subject: Subject, *given: Any) -> UnitResult:
    """What a unit finds about its subject, and about what is given besides to the kinds of work that need it.

    Nothing is written and nothing is said; the model is left as it came, and so is global randomness. The same unit
    gives the same bits on the same versions, threads and device, in whichever process, first or again; seconds alone
    differ.

    Raises      ModelError for an exception of the model that no finding can stand for.

    >>> import torch
    >>> from trustbound.data.labelled import LabelledSet
    >>> from trustbound.model.wrapping import wrap
    >>> data = LabelledSet(torch.rand(3, 4), [0, 1, 0])
    >>> subject = Subject(model=wrap(torch.nn.Linear(4, 2)), data=data, threats={})
    >>> unit = WorkUnit(step="clean", shard=0, kind="clean", positions=(0, 2), key=7)
    >>> [row.position for row in execute(unit, subject).rows]
    [0, 2]
    """
    result: UnitResult = KINDS.load(unit.kind)(unit, subject, *given)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in result.tensors.items()}
    return dataclasses.replace(result, tensors=tensors)
