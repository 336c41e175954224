"""Which run directory a command belongs to, and what was chosen there before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustbound.data.labelled import LabelledSet
    from trustbound.model.wrapping import Model
    from trustbound.threat import Threat


def default_run(
    model: Model, data: LabelledSet, threats: Sequence[Threat], asked: Sequence[Any], training: LabelledSet | None
) -> Path:
    """A directory that depends on all that is asked, so that the same command finds its evidence again.

    `asked` holds what the command line says beyond model, data and threats: budget or time, seed, curve …
    """
    from trustbound.audits.fingerprint import described

    question = described(model, data, threats, budget="", seed=0, curve=0, batch_size=None, training=training)
    digest = hashlib.sha256(json.dumps([question, *asked], sort_keys=True).encode()).hexdigest()
    clean = "".join(letter if letter.isalnum() else "-" for letter in model.name).strip("-") or "model"
    return Path("runs") / f"{clean}-{digest[:8]}"


def chosen_before(folder: Path, data: LabelledSet, seed: int) -> tuple[str, LabelledSet] | None:
    """The budget and the examples that `--time` chose when this run was begun; None where it is new.

    Measured anew, the machine's speed might choose others, and the run could not go on.
    """
    from trustbound.record.store import Store

    asked = Store.asked(folder)
    if asked is None:
        return None
    return str(asked["budget"]), data.stratified(int(asked["examples"]), seed)
