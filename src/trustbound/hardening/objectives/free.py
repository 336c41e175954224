"""Free adversarial training: the backward pass that moves the weights moves the perturbation too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.refusals import whole
from trustbound.errors import UnsupportedError
from trustbound.hardening.objectives.context import Batch, Context
from trustbound.hardening.objectives.objective import Metrics, Outcome, State, check_step_size, learn_at
from trustbound.threat.neighbourhood import AdditiveNeighbourhood


@dataclass(frozen=True, kw_only=True)
class FreeTraining:
    """Adversarial training at the price of plain training, each minibatch replayed `replays` times.

    Lifts       robust accuracy, against the threat it is trained for.
    Update      on each minibatch, `replays` times: one forward and backward at x + δ clipped to the box; the weights
                move along their gradient; δ <- project(δ + step_size · steepest(∇δ)) to the ball.
    Loss        CE(f(clip(x + δ)), y), mean over the replays.
    State       perturbation (rows, *F): δ, zero at first, handed from minibatch to minibatch by place, whatever the
                examples; with `replays=1` a minibatch is learned once, at the δ that the one before it left.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C); loss ().
    Metrics     robust_accuracy: share of the batch classified correctly at its points, mean over the replays.
    Cost        per example and epoch: `replays` forwards and backwards, weights and inputs in one. The paper divides
                the epochs by `replays`; a recipe's `epochs` are passes over the data: choose that many fewer.
    Randomness  none of its own.
    Raises      InputError for replays below 1 and a step_size that is not above 0; UnsupportedError for a set whose θ
                is not the input.
    Reference   Shafahi et al., Adversarial training for free!, 2019 (1904.12843), algorithm 1.
    Deviations  x + δ is clipped to the box, through which its gradient flows, as in the authors' code; the printed
                algorithm knows no box. `step_size` None means epsilon, their choice; norms other than l∞ use their own
                steepest direction.

    >>> FreeTraining(replays=4).step_size is None
    True
    """

    threat: ClassVar[bool] = True

    replays: int = 8
    step_size: float | None = None

    def __post_init__(self) -> None:
        """Refuse what never learns or never moves."""
        whole("replays", self.replays)
        check_step_size(self.step_size, "epsilon")

    def init(self, context: Context) -> State:
        """No perturbation yet."""
        return {"perturbation": torch.zeros(context.rows, *context.shape, device=context.model.device)}

    def step(self, context: Context, state: State, batch: Batch) -> Outcome:
        """All replays of a minibatch; the weights are moved after each."""
        ball, box = context.around(batch.inputs, boxed=False), context.around(batch.inputs)
        if not isinstance(box, AdditiveNeighbourhood):
            raise UnsupportedError(
                f"free hands on a change of the inputs, which {context.threat.perturbations} has not; train with pgd"
            )
        size = context.epsilon if self.step_size is None else self.step_size
        kept: Tensor = state["perturbation"][: len(batch)]
        theta, told = batch.inputs + kept, []
        for _ in range(self.replays):
            theta.requires_grad_(True)
            loss, metrics = learn_at(context, theta.clamp(box.low, box.high), batch.labels)
            context.update(loss)
            assert theta.grad is not None
            moved = theta.detach().add_(ball.steepest(theta.detach(), theta.grad), alpha=size)
            theta = ball.project(moved)
            told.append({"loss": loss.detach(), **metrics})
        kept.copy_(theta - batch.inputs)
        means: Metrics = {name: torch.stack([one[name] for one in told]).mean() for name in told[0]}
        return means["loss"], state, {"robust_accuracy": means["robust_accuracy"]}
