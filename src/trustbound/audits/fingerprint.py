"""Fingerprint of an audit: a run directory goes on only with what it was begun for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError
from trustbound.model.defences.stand_ins import StandIn
from trustbound.model.files.contents import contents_digest
from trustbound.model.wrapping import Model
from trustbound.record.box import Limit
from trustbound.threat import Threat

#: Where an object lies in memory: part of some modules' text, different in each process.
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")


def check_told_apart(model: Model, threats: Sequence[Threat]) -> None:
    """Refuse to keep evidence of what nothing tells from another of its kind.

    Raises      InputError.
    """
    if not model.identified:
        raise InputError(
            f"a run directory tells models apart by what they hold, and {model.name} is a function over arrays, which "
            "shows nothing of it: its evidence would pass for another's. Pass sha256= to wrap (of what stands behind "
            "it), or leave run= out."
        )
    for goal in (threat.goal for threat in threats if _own(threat)):
        if contents_digest(goal, code=True) is None:
            raise InputError(
                f"a run directory tells goals apart by what they do, which nothing shows of {goal.name!r}: the goal "
                "holds a connection, a lock or the like. Its evidence would pass for another's. Leave run= out."
            )


def _own(threat: Threat) -> bool:
    """Whether the goal is the caller's own: its text need not say what it does."""
    return not type(threat.goal).__module__.startswith("trustbound.")


def described(
    model: Model,
    data: LabelledSet,
    threats: Sequence[Threat],
    *,
    budget: str,
    seed: int,
    curve: int,
    batch_size: int | None,
    training: LabelledSet | None = None,
) -> dict[str, Any]:
    """Everything that the verdicts depend on, as plain values.

    A weights file alone does not say what is computed with it: the function that built the layers with its file and
    arguments, the box, the normalisation, the place of the logits and the declared adaptation are part of the question
    too. What no description shows, `stages.clean.same_answers` asks the model itself.

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
    radii = [[str(one) for one in getattr(threat.perturbations, "radii", ())] for threat in threats]
    own = [contents_digest(threat.goal, code=True) if _own(threat) else "" for threat in threats]
    return {
        # Said of other tasks alone: a run of a classifier that an earlier version began is the same question.
        **({} if model.task.plain else {"task": str(model.task)}),
        **({"goals": own} if any(map(_own, threats)) else {}),
        **({"columns": radii} if any(radii) else {}),
        "model": model.sha256,
        "layers": hashlib.sha256(_ADDRESS.sub("", repr(model.module)).encode()).hexdigest(),
        "box": [_plain(model.box.low), _plain(model.box.high)],
        "normalisation": [None if one is None else one.tolist() for one in (model.mean, model.std)],
        "output": model.output if isinstance(model.output, str | int | None) else "a function",
        "loaded": _loaded(model),
        "adaptation": [
            model.adaptation.draws,
            sorted(_stand_in(path, call) for path, call in model.adaptation.stand_ins.items()),
            model.adaptation.detector is not None,
        ],
        "training": None if training is None else training.sha256,
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


def _stand_in(path: str, call: Any) -> str:
    """A module that has a stand-in, and which, where it has a name."""
    return f"{path}={call.name}" if isinstance(call, StandIn) else path


def _loaded(model: Model) -> Any:
    """The function, its arguments and the digests of the files that were read; None for a module in memory."""
    if model.origin is None:
        return None
    function = model.origin.spec.rpartition(":")[2] if model.origin.executed else ""
    return [function, _as_json(model.origin.arguments), sorted(digest for _, digest in model.origin.files)]


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _plain(limit: Limit) -> Any:
    return limit if isinstance(limit, float) else np.asarray(limit).tolist()
