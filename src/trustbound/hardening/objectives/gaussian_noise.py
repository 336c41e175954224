"""Training under Gaussian noise: learn on noisy copies, so that votes under that noise are sure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from trustbound.errors import InputError
from trustbound.hardening.objectives.context import Batch, Context
from trustbound.hardening.objectives.objective import Outcome, State
from trustbound.tasks.task import real


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Cross-entropy on one noisy copy of each example, anew in each epoch.

    Lifts       the certified radius of the model that `tb.smooth` makes with the same noise.
    Loss        CE(f(x + N), y), N normal with standard deviation `noise_std` in units of the inputs, not clipped to
                the box, as the smoothed model sees it.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C); loss ().
    Metrics     noisy_accuracy: share of the noisy copies classified correctly, in train mode.
    Cost        per example: 1 forward and backward.
    Randomness  the noise, a function of (seed, epoch, example).
    Raises      InputError for a standard deviation that is no number above 0.
    Reference   Cohen, Rosenfeld and Kolter, Certified Adversarial Robustness via Randomized Smoothing, 2019
                (1902.02918), section 3.3.
    Deviations  none.

    >>> GaussianNoise(noise_std=0.5)
    GaussianNoise(noise_std=0.5)
    """

    threat: ClassVar[bool] = False

    noise_std: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what is no noise."""
        std = real(self.noise_std)
        if std is None or not 0.0 < std < math.inf:
            raise InputError(f"`noise_std` must be a finite number above 0, in units of the inputs; got {std!r}")

    def init(self, context: Context) -> State:
        """Nothing is remembered."""
        return {}

    def step(self, context: Context, state: State, batch: Batch) -> Outcome:
        """Mean cross-entropy of the noisy batch."""
        inputs = batch.inputs
        noise = batch.random.normal(tuple(inputs.shape[1:]), restart=0, draw=0, dtype=inputs.dtype)
        logits = context.logits(inputs + self.noise_std * noise)
        loss = F.cross_entropy(logits, batch.labels)
        return loss, state, {"noisy_accuracy": (logits.detach().argmax(dim=1) == batch.labels).float().mean()}
