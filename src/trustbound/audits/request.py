"""What makes two audits the same: a run directory goes on only with what it was begun for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from trustbound.data.labelled import LabelledSet
from trustbound.model.wrapping import Model
from trustbound.record.box import Limit
from trustbound.threat import Threat

#: Where an object lies in memory: part of some modules' text, different in each process.
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")


def described(
    model: Model,
    data: LabelledSet,
    threats: Sequence[Threat],
    *,
    budget: str,
    seed: int,
    curve: int,
    batch_size: int | None,
) -> dict[str, Any]:
    """Everything that the verdicts depend on, as plain values.

    A weights file alone does not say what is computed with it: the layers, the box, the normalisation and the place
    of the logits are part of the question too.

    >>> import torch
    >>> from trustbound.model.wrapping import wrap
    >>> data = LabelledSet(torch.rand(2, 4), [0, 1])
    >>> asked = {"budget": "quick", "seed": 0, "curve": 0, "batch_size": None}
    >>> plain, shifted = (
    ...     described(wrap(torch.nn.Linear(4, 2), mean=mean), data, [Threat.parse("l2:1")], **asked)
    ...     for mean in (None, [0.5])
    ... )
    >>> plain["normalisation"] == shifted["normalisation"]
    False
    """
    return {
        "model": model.sha256,
        "layers": hashlib.sha256(_ADDRESS.sub("", repr(model.module)).encode()).hexdigest(),
        "box": [_plain(model.box.low), _plain(model.box.high)],
        "normalisation": [None if one is None else one.tolist() for one in (model.mean, model.std)],
        "output": model.output if isinstance(model.output, str | int | None) else "a function",
        "data": data.sha256,
        "examples": len(data),
        "rows": hashlib.sha256(data.indices.numpy().tobytes()).hexdigest(),
        "threats": [str(threat) for threat in threats],
        "budget": budget,
        "seed": seed,
        "curve": curve,
        "batch_size": batch_size,
        "device": str(model.device),
        "dtype": str(model.dtype),
    }


def _plain(limit: Limit) -> Any:
    return limit if isinstance(limit, float) else np.asarray(limit).tolist()
