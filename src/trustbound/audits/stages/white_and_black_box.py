"""White box and black box: which examples were broken with gradients, and which without."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trustbound.attacks.registry import ATTACKS
from trustbound.audits.stages.verdicts import Verdicts
from trustbound.record.audit import StageFacts
from trustbound.threat import Access


def sees_gradients(method: str) -> bool:
    """Whether an attack belongs to the white box.

    >>> sees_gradients("apgd"), sees_gradients("square")
    (True, False)
    """
    return Access[ATTACKS.find(method).needs.upper()] >= Access.GRADIENTS


def sides(verdicts: Verdicts, facts: Sequence[StageFacts]) -> tuple[Tensor | None, Tensor | None]:
    """Broken with gradients and broken without, (N,) bool each; None for a side on which nothing was run."""
    found: list[Tensor | None] = [None, None]
    for step in facts:
        if step.kind == "proof":
            continue
        side = 0 if sees_gradients(step.method) else 1
        mask = found[side]
        if mask is None:
            mask = torch.zeros(len(verdicts.correct), dtype=torch.bool)
        mask[list(verdicts.broke[f"{step.threat}/{step.name}"])] = True
        found[side] = mask
    return found[0], found[1]
