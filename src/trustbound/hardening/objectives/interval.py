"""Interval bound propagation as a training loss: learn on the worst logits that intervals allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trustbound.errors import InputError, UnsupportedError
from trustbound.hardening.objectives.context import Batch, Context
from trustbound.hardening.objectives.inner import full
from trustbound.hardening.objectives.layer_intervals import batch_statistics, layers_of, through
from trustbound.hardening.objectives.objective import Outcome, State
from trustbound.tasks.task import real

Layers: TypeAlias = list[tuple[str, nn.Module]]
Statistics: TypeAlias = dict[nn.Module, tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class IntervalTraining:
    """Cross-entropy on the clean logits and on the worst that interval arithmetic allows, the radius growing.

    Lifts       what `interval`, and so every tighter certifier, proves; robust accuracy with it.
    Loss        κ CE(f(x), y) + (1 − κ) CE(worst, y), worst_j = max over the intervals of f_j − f_y, the last linear
                layer fused with the difference.
    Schedule    of the share of training that is done: the radius is 0 up to `warm_up`, grows linearly to ε at `ramp`,
                and stays; κ falls with it from 1 to `clean_weight`.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C); loss ().
    Metrics     accuracy: of the clean batch, in train mode; certified_accuracy: share whose intervals at the current
                radius leave the label on top (no proof: rounding is not counted).
    Cost        per example: 1 forward and backward of the model; the intervals, about two more of each, use its weights
                without asking it.
    Randomness  none.
    Raises      InputError for shares out of order; UnsupportedError for sets that are no ball of real numbers, and for
                layers without intervals, by name.
    Reference   Gowal et al., On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models,
                2018 (1810.12715), equations 5 to 12 and section 5 for the schedules.
    Deviations  schedules are shares of training, not steps (the paper: warm-up 2,000 and growth over 10,000 of some
                60,000 steps); ε is not enlarged for training. l2 and l1 balls are enclosed by the interval of their
                radius. Batch norm uses the clean batch's statistics; dropout drops nothing in the intervals.

    >>> IntervalTraining().weights(0.0), IntervalTraining().weights(0.9)
    ((0.0, 1.0), (1.0, 0.5))
    """

    threat: ClassVar[bool] = True

    clean_weight: float = 0.5
    warm_up: float = 0.05
    ramp: float = 0.6

    def __post_init__(self) -> None:
        """Refuse shares out of order."""
        check_shares(self.warm_up, self.ramp, clean_weight=self.clean_weight)

    def weights(self, share: float) -> tuple[float, float]:
        """The radius in units of ε, and κ, when a share of training is done."""
        grown = growing(share, self.warm_up, self.ramp)
        return grown, 1.0 - (1.0 - self.clean_weight) * grown

    def init(self, context: Context) -> State:
        """Nothing is remembered; sets and layers without intervals are refused."""
        check_intervals(context)
        return {}

    def step(self, context: Context, state: State, batch: Batch) -> Outcome:
        """Mean loss of the batch."""
        grown, kept = self.weights(context.progress.share)
        return mixed_loss(context, state, batch, grown, kept, worst_logits)


def growing(share: float, warm_up: float, ramp: float) -> float:
    """The radius in units of ε when a share of training is done: 0 up to `warm_up`, then linear, 1 from `ramp` on.

    >>> [growing(share, 0.25, 0.75) for share in (0.1, 0.5, 0.9)]
    [0.0, 0.5, 1.0]
    """
    return 1.0 if share >= ramp else max(0.0, share - warm_up) / max(ramp - warm_up, 1e-9)


def check_shares(warm_up: float, ramp: float, **weights: float) -> None:
    """Refuse shares out of order, and weights that are none."""
    for name, weight in weights.items():
        kept = real(weight)
        if kept is None or not 0.0 <= kept <= 1.0:
            raise InputError(f"`{name}` must lie in [0, 1]; got {weight!r}")
    start, end = real(warm_up), real(ramp)
    if start is None or end is None or not 0.0 <= start <= end <= 1.0:
        raise InputError(f"0 ≤ warm_up ≤ ramp ≤ 1 is needed; got {warm_up!r} and {ramp!r}")


def check_intervals(context: Context) -> None:
    """Refuse sets and layers without intervals."""
    perturbations = context.threat.perturbations
    if not perturbations.norm or perturbations.grain:
        raise UnsupportedError(
            f"interval training serves norm balls of real numbers; got {perturbations.name}. Train with pgd."
        )
    layers_of(context.model)


def mixed_loss(
    context: Context,
    state: State,
    batch: Batch,
    grown: float,
    kept: float,
    worst_of: Callable[[Layers, Tensor, Tensor, Tensor, Statistics], Tensor],
) -> Outcome:
    """κ of the clean loss and 1 − κ of that on the worst logits, over the part of the ball that has been reached."""
    layers = layers_of(context.model)
    with batch_statistics(layers) as seen:
        logits = context.logits(batch.inputs)
    loss = F.cross_entropy(logits, batch.labels)
    low, high = region_limits(context, batch.inputs, grown)
    worst = full(worst_of(layers, low, high, batch.labels, seen))
    bound = F.cross_entropy(worst, batch.labels)
    held = (worst.detach().argmax(dim=1) == batch.labels).float().mean()
    right = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
    metrics = {"accuracy": right, "certified_accuracy": held}
    return kept * loss + (1.0 - kept) * bound, state, metrics


def region_limits(context: Context, inputs: Tensor, grown: float) -> tuple[Tensor, Tensor]:
    """Limits (B, *F) of what the module sees: the part of the ball that the radius has reached, normalised."""
    model, epsilon = context.model, context.threat.perturbations.epsilon
    floor, ceiling = (
        torch.as_tensor(side, dtype=inputs.dtype, device=inputs.device) for side in (model.box.low, model.box.high)
    )
    reach = grown * min(epsilon, model.box.width)
    low, high = (inputs - reach).maximum(floor), (inputs + reach).minimum(ceiling)
    for numbers, apply in ((model.mean, torch.sub), (model.std, torch.div)):
        if numbers is not None:
            shaped = numbers.reshape(-1, *(1,) * (inputs.dim() - 2))
            low, high = apply(low, shaped), apply(high, shaped)
    return low, high


def worst_logits(layers: Layers, low: Tensor, high: Tensor, labels: Tensor, seen: Statistics) -> Tensor:
    """The largest f_j − f_y that the intervals allow, (B, C), 0 for the label itself."""
    *before, (_, last) = layers
    for _, layer in before:
        low, high = through(layer, low, high, seen)
    rows = torch.arange(len(labels), device=labels.device)
    if isinstance(last, nn.Linear) and low.dim() == 2:
        difference = last.weight.unsqueeze(0) - last.weight[labels].unsqueeze(1)
        middle, reach = (low + high) / 2, (high - low) / 2
        worst = torch.bmm(difference, middle.unsqueeze(2)) + torch.bmm(difference.abs(), reach.unsqueeze(2))
        worst = worst.squeeze(2)
        return worst if last.bias is None else worst + last.bias - last.bias[labels].unsqueeze(1)
    low, high = through(last, low, high, seen)
    worst = high - low[rows, labels].unsqueeze(1)
    return worst.index_put((rows, labels), worst.new_zeros(()))
