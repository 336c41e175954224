"""Adversarial training with an inner PGD: learn on the worst point found around each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from trustbound.errors import InputError
from trustbound.hardening.objectives.learner import Learner
from trustbound.threat import Random


@dataclass(frozen=True, kw_only=True)
class PGDTraining:
    """min over weights of the mean over examples of max over the threat set of the cross-entropy.

    Lifts       robust accuracy, against the threat it is trained for.
    Inner       θ₀ uniform in the ball, clipped to the box; θ <- project(θ + step_size · steepest(∇ CE)), `steps` times.
    Loss        CE(f(θ), y): the adversarial points only, as in the paper.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C); loss ().
    Facts       robust_accuracy: share of the batch still classified correctly, in train mode.
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
        if self.steps < 1:
            raise InputError(f"`steps` must be at least 1; got {self.steps}")
        if self.step_size is not None and not self.step_size > 0.0:
            raise InputError(f"`step_size` must be above 0, or None for 2.5 · epsilon / steps; got {self.step_size}")
        if self.mode not in ("train", "eval"):
            raise InputError(f"`mode` of the inner search must be train or eval; got {self.mode!r}")

    def adversarial(self, learner: Learner, inputs: Tensor, labels: Tensor, random: Random) -> Tensor:
        """The points of the inner search, (B, *F), inside set and box."""
        ours = learner.around(inputs)
        theta = ours.project(learner.start(inputs, random)) if self.random_start else ours.origin()
        size = ours.column(
            2.5 * ours.scale() / self.steps
            if self.step_size is None
            else ours.radius.new_full(ours.radius.shape, self.step_size)
        )
        with learner.search(mode=self.mode) as climb:
            for _ in range(self.steps):
                gradient = climb(theta, lambda logits: F.cross_entropy(logits, labels, reduction="none"))
                theta = ours.project(theta.addcmul_(ours.steepest(theta, gradient), size))
        return theta

    def loss(
        self, learner: Learner, inputs: Tensor, labels: Tensor, random: Random
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy at the points found."""
        logits = learner.logits(self.adversarial(learner, inputs, labels, random))
        facts = {"robust_accuracy": (logits.detach().argmax(dim=1) == labels).float().mean()}
        return F.cross_entropy(logits, labels), facts
