"""Adversarial training with an inner PGD: learn on the worst point found around each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trustbound.attacks.gradient.pgd import PGD
from trustbound.attacks.refusals import whole
from trustbound.hardening.objectives.context import Batch, Context
from trustbound.hardening.objectives.objective import Outcome, State, check_mode, check_step_size, learn_at


@dataclass(frozen=True, kw_only=True)
class PGDTraining:
    """min over weights of the mean over examples of max over the threat set of the cross-entropy.

    Lifts       robust accuracy, against the threat it is trained for.
    Inner       the attack `pgd` from θ₀ uniform in the ball, clipped to the box:
                θ <- project(θ + step_size · steepest(∇ CE)), `steps` times.
    Loss        CE(f(θ), y): the adversarial points only, as in the paper.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C); loss ().
    Metrics     robust_accuracy: share of the batch still classified correctly, in train mode.
    Cost        per example: `steps` + 1 forwards and backwards; weight gradients only in the last one.
    Randomness  the start point, one per example and epoch.
    Raises      InputError for numbers that no search has.
    Reference   Madry et al., Towards deep learning models resistant to adversarial attacks, 2018
                (1706.06083), equation 2.1 and section 5.
    Deviations  `step_size` None means 2.5 · epsilon / steps (the paper: 0.01 with 40 steps on MNIST, 2/255
                with 7 on CIFAR-10, both at one fixed epsilon). `mode` "train" as in the paper's code, where
                one graph serves search and update; the running statistics of batch norm are not moved by the
                inner steps.

    >>> from trustbound.threat import Threat
    >>> PGDTraining(steps=7, step_size=2 / 255).steps
    7
    """

    threat: ClassVar[bool] = True

    steps: int = 7
    step_size: float | None = None
    random_start: bool = True
    mode: str = "train"

    def __post_init__(self) -> None:
        """Refuse numbers that no search has."""
        whole("steps", self.steps)
        check_step_size(self.step_size, "2.5 · epsilon / steps")
        check_mode(self.mode)

    def init(self, context: Context) -> State:
        """Nothing is remembered."""
        return {}

    def adversarial(self, context: Context, batch: Batch) -> Tensor:
        """The points of the inner search, (B, *F), inside set and box."""
        attack = PGD(steps=self.steps, step_size=self.step_size, random_start=self.random_start)
        start = context.around(batch.inputs).project(context.start(batch)) if self.random_start else None
        return context.inner(attack, batch, start=start, mode=self.mode)

    def step(self, context: Context, state: State, batch: Batch) -> Outcome:
        """Mean cross-entropy at the points found."""
        loss, metrics = learn_at(context, self.adversarial(context, batch), batch.labels)
        return loss, state, metrics
