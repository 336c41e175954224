"""Plain training: cross-entropy on the examples as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from trustbound.errors import InputError
from trustbound.hardening.objectives.context import Batch, Context
from trustbound.hardening.objectives.objective import Outcome, State


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Cross-entropy, optionally with smoothed labels.

    Lifts       clean accuracy; no bound of robust accuracy.
    Loss        CE(f(x), q), q = (1 − s) · onehot(y) + s / C, s = `label_smoothing`.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C); loss ().
    Metrics     accuracy: share of the batch classified correctly, in train mode.
    Cost        per example: 1 forward and backward.
    Randomness  none of its own.
    Raises      InputError when label_smoothing is not in [0, 1).
    Reference   Szegedy et al., Rethinking the inception architecture, 2016 (1512.00567), section 7, for the
                smoothing.
    Deviations  none.

    >>> import torch
    >>> from trustbound.model.wrapping import wrap
    >>> from trustbound.threat import Random
    >>> context = Context(wrap(torch.nn.Linear(2, 3)))
    >>> batch = Batch(inputs=torch.rand(3, 2), labels=torch.arange(3), random=Random(0, torch.arange(3)))
    >>> loss, state, metrics = Standard(label_smoothing=0.1).step(context, {}, batch)
    >>> loss.requires_grad, state, list(metrics)
    (True, {}, ['accuracy'])
    """

    threat: ClassVar[bool] = False

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0.0 <= self.label_smoothing < 1.0:
            raise InputError(f"`label_smoothing` must lie in [0, 1); got {self.label_smoothing}")

    def init(self, context: Context) -> State:
        """Nothing is remembered."""
        return {}

    def step(self, context: Context, state: State, batch: Batch) -> Outcome:
        """Mean cross-entropy of the batch."""
        logits = context.logits(batch.inputs)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        return loss, state, {"accuracy": (logits.detach().argmax(dim=1) == batch.labels).float().mean()}
