"""TRADES: accuracy on clean examples, and answers that do not change around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from trustbound.attacks.gradient.pgd import PGD
from trustbound.attacks.refusals import whole
from trustbound.errors import InputError
from trustbound.hardening.objectives.context import Batch, Context
from trustbound.hardening.objectives.objective import Outcome, State, check_mode, check_step_size
from trustbound.threat.neighbourhood import AdditiveNeighbourhood

#: Standard deviation of the start around the clean input, where the divergence has no slope.
START = 1e-3


@dataclass(frozen=True, kw_only=True)
class TradesTraining:
    """Cross-entropy on the clean input plus `weight` · KL(clean ‖ adversarial), the adversarial found by ascent on KL.

    Lifts       robust accuracy, for a price in clean accuracy that `weight` sets.
    Inner       the attack `pgd` on KL(f(x) ‖ f(θ)), from x + 0.001 · N(0, I).
    Loss        CE(f(x), y) + weight · KL(f(x) ‖ f(θ)), in softmax probabilities; the gradient flows through both.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C); loss ().
    Metrics     accuracy: share of the clean batch classified correctly, in train mode; divergence: the mean KL.
    Cost        per example: `steps` + 3 forwards, `steps` + 2 backwards; weight gradients only in the last two.
    Randomness  the start point, one per example and epoch.
    Raises      InputError for numbers that no search has and a negative weight.
    Reference   Zhang, Yu, Jiao, Xing, El Ghaoui and Jordan, Theoretically principled trade-off between robustness and
                accuracy, 2019 (1901.08573), equation 5 and algorithm 1; `weight` is their 1/λ.
    Deviations  `step_size` None means 2.5 · epsilon / steps (the authors' code: 0.003 in 10 steps at 0.031 on
                CIFAR-10); the clean answers are computed once, not in each step. `mode` "eval" as in the authors'
                code; the running statistics of batch norm are moved by the outer passes alone. Sets whose θ is not the
                input (rotations, patches) start anywhere in the set.

    >>> TradesTraining(weight=1.0).steps
    10
    """

    threat: ClassVar[bool] = True

    weight: float = 6.0
    steps: int = 10
    step_size: float | None = None
    mode: str = "eval"

    def __post_init__(self) -> None:
        """Refuse numbers that no search has."""
        whole("steps", self.steps)
        check_step_size(self.step_size, "2.5 · epsilon / steps")
        check_mode(self.mode)
        if not 0.0 <= self.weight < float("inf"):
            raise InputError(f"`weight` of the divergence must be a finite number at least 0; got {self.weight!r}")

    def init(self, context: Context) -> State:
        """Nothing is remembered."""
        return {}

    def adversarial(self, context: Context, batch: Batch) -> Tensor:
        """The points of the inner search, (B, *F), inside set and box."""
        inputs = batch.inputs
        clean = context.outputs(inputs, mode=self.mode).softmax(dim=1)
        ours = context.around(inputs)
        if isinstance(ours, AdditiveNeighbourhood):
            noise = batch.random.normal(tuple(inputs.shape[1:]), restart=0, draw=0, dtype=inputs.dtype)
            start = ours.project(inputs + START * noise)
        else:
            start = ours.start(batch.random, 0)
        return context.inner(
            PGD(steps=self.steps, step_size=self.step_size),
            batch,
            start=start,
            loss=lambda logits, owner: divergence(clean[owner], logits),
            mode=self.mode,
        )

    def step(self, context: Context, state: State, batch: Batch) -> Outcome:
        """Mean loss of the batch and its adversarial points."""
        adversarial = self.adversarial(context, batch)
        logits, moved = context.logits(batch.inputs), context.logits(adversarial)
        apart = divergence(logits.softmax(dim=1), moved).mean()
        loss = F.cross_entropy(logits, batch.labels) + self.weight * apart
        correct = logits.detach().argmax(dim=1) == batch.labels
        return loss, state, {"accuracy": correct.float().mean(), "divergence": apart.detach()}


def divergence(probabilities: Tensor, logits: Tensor) -> Tensor:
    """KL(probabilities ‖ softmax(logits)) of each row, (B,).

    >>> import torch
    >>> divergence(torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, 3.0]]))
    tensor([0.])
    """
    return F.kl_div(logits.log_softmax(dim=1), probabilities, reduction="none").sum(dim=1)
