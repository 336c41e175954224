"""Training on ablated pictures: learn from one band or block at a time, so that votes over all of them are sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from trustbound.errors import UnsupportedError
from trustbound.hardening.objectives.context import Batch, Context
from trustbound.hardening.objectives.objective import Outcome, State
from trustbound.model.defences.ablated import check


@dataclass(frozen=True, kw_only=True)
class AblationTraining:
    """Cross-entropy on one ablated copy of each example, anew in each epoch.

    Lifts       the certified accuracy under patches of the model that `tb.ablate` makes with the same kind and width.
    Loss        CE(f(a(x)), y), a(x) showing one band or block, each place as likely, and the lowest value of the box
                elsewhere.
    Shapes      inputs (B, C, H, W) in the box; labels (B,) int64; logits (B, K); loss ().
    Metrics     ablated_accuracy: share of the ablated copies classified correctly, in train mode.
    Cost        per example: 1 forward and backward.
    Randomness  the place, a function of (seed, epoch, example).
    Raises      InputError for a kind or a width that there is not; UnsupportedError for inputs that are no pictures.
    Reference   Levine and Feizi, (De)Randomized Smoothing for Certifiable Defense against Patch Attacks, 2020
                (2002.10733), section 4.
    Deviations  what is ablated has no encoding of its own.

    >>> AblationTraining(kind="block", width=5)
    AblationTraining(kind='block', width=5)
    """

    threat: ClassVar[bool] = False

    kind: str = "band"
    width: int = 4

    def __post_init__(self) -> None:
        """Refuse what shows nothing."""
        check(self.kind, self.width, None)

    def init(self, context: Context) -> State:
        """Nothing is remembered."""
        if len(context.shape) != 3:
            raise UnsupportedError(f"ablation shows parts of pictures (C, H, W); got inputs of shape {context.shape}")
        return {}

    def step(self, context: Context, state: State, batch: Batch) -> Outcome:
        """Mean cross-entropy of the ablated batch."""
        inputs = batch.inputs
        height, width = inputs.shape[2:]
        shown = self._shown(batch, 0, width).unsqueeze(1)
        if self.kind == "block":
            shown = shown & self._shown(batch, 1, height).unsqueeze(2)
        low = torch.as_tensor(context.model.box.low, dtype=inputs.dtype, device=inputs.device)
        logits = context.logits(torch.where(shown.unsqueeze(1), inputs, low))
        loss = F.cross_entropy(logits, batch.labels)
        return loss, state, {"ablated_accuracy": (logits.detach().argmax(dim=1) == batch.labels).float().mean()}

    def _shown(self, batch: Batch, draw: int, length: int) -> torch.Tensor:
        """Which of a ring of places each example shows, (B, length)."""
        first = batch.random.integers(length, (1,), restart=0, draw=draw)
        return (torch.arange(length, device=first.device) - first) % length < self.width
