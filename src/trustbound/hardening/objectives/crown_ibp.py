"""CROWN-IBP as a training loss: linear bounds of the margins over interval limits, given over to intervals alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustbound.hardening.objectives.context import Batch, Context
from trustbound.hardening.objectives.interval import (
    Layers,
    Statistics,
    check_intervals,
    check_shares,
    growing,
    mixed_loss,
    worst_logits,
)
from trustbound.hardening.objectives.layer_intervals import Pair, linear_part, scale_and_shift, through
from trustbound.hardening.objectives.objective import Outcome, State

#: Layers that a way back goes through; it ends in the limits in front of any other.
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_SHAPES = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True, kw_only=True)
class CrownIBPTraining:
    """Cross-entropy on the clean logits and on the worst that CROWN-IBP allows, the radius growing.

    Lifts       what `interval`, and so every tighter certifier, proves; robust accuracy with it.
    Loss        κ CE(f(x), y) + (1 − κ) CE(worst, y), worst = β CROWN-IBP + (1 − β) IBP: upper bounds of f_j − f_y, the
                first by going back from the margins to the input with one line per ReLU between its interval limits,
                the second by the intervals alone.
    Schedule    of the share of training that is done: the radius is 0 up to `warm_up`, grows linearly to ε at `ramp`,
                and stays; κ falls with it from 1 to `clean_weight`, β from 1 to `crown_weight`.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C); loss ().
    Metrics     accuracy: of the clean batch, in train mode; certified_accuracy: share whose worst logits at the current
                radius leave the label on top (no proof: rounding is not counted).
    Cost        per example: 1 forward and backward of the model; the intervals, about two more of each; while β is
                above 0 the way back, about C of each. It holds C rows over the widest layer for each example.
    Randomness  none.
    Raises      InputError for shares out of order; UnsupportedError for sets that are no ball of real numbers, and for
                layers without intervals, by name.
    Reference   Zhang, Chen, Xiao, Gowal, Stanforth, Li, Boning and Hsieh, Towards Stable and Efficient Training of
                Verifiably Robust Neural Networks, 2020 (1906.06316), equations 8 to 14.
    Deviations  schedules are shares of training, not epochs; ε is not enlarged for training. l2 and l1 balls are
                enclosed by the interval of their radius. At a layer that is neither linear nor a ReLU (max pools,
                sigmoid …) the way back ends in that layer's interval limits. Batch norm uses the clean batch's
                statistics; dropout drops nothing in the bounds.

    >>> CrownIBPTraining().weights(0.0), CrownIBPTraining().weights(0.9)
    ((0.0, 1.0, 1.0), (1.0, 0.5, 0.0))
    """

    threat: ClassVar[bool] = True

    clean_weight: float = 0.5
    crown_weight: float = 0.0
    warm_up: float = 0.05
    ramp: float = 0.6

    def __post_init__(self) -> None:
        """Refuse shares out of order."""
        check_shares(self.warm_up, self.ramp, clean_weight=self.clean_weight, crown_weight=self.crown_weight)

    def weights(self, share: float) -> tuple[float, float, float]:
        """The radius in units of ε, κ and β, when a share of training is done."""
        grown = growing(share, self.warm_up, self.ramp)
        return grown, 1.0 - (1.0 - self.clean_weight) * grown, 1.0 - (1.0 - self.crown_weight) * grown

    def init(self, context: Context) -> State:
        """Nothing is remembered; sets and layers without intervals are refused."""
        check_intervals(context)
        return {}

    def step(self, context: Context, state: State, batch: Batch) -> Outcome:
        """Mean loss of the batch."""
        grown, kept, share = self.weights(context.progress.share)

        def worst(layers: Layers, low: Tensor, high: Tensor, labels: Tensor, seen: Statistics) -> Tensor:
            intervals = worst_logits(layers, low, high, labels, seen)
            return (
                intervals if share == 0.0 else torch.lerp(intervals, crown_ibp(layers, low, high, labels, seen), share)
            )

        return mixed_loss(context, state, batch, grown, kept, worst)


def crown_ibp(layers: Layers, low: Tensor, high: Tensor, labels: Tensor, seen: Statistics) -> Tensor:
    """The largest f_j − f_y by going back from them over interval limits, (B, C), 0 for the label itself."""
    limits: list[Pair] = [(low, high)]
    for _, layer in layers:
        limits.append(through(layer, *limits[-1], seen))
    classes = limits[-1][0].shape[1]
    eye = torch.eye(classes, dtype=low.dtype, device=low.device)
    rows = eye.unsqueeze(0) - eye[labels].unsqueeze(1)
    constant = rows.new_zeros(rows.shape[:2])
    for index in range(len(layers) - 1, -1, -1):
        found = _back(layers[index][1], rows, limits[index], seen)
        if found is None:
            return constant + _largest(rows, limits[index + 1])
        rows, added = found
        constant = constant if added is None else constant + added
    return constant + _largest(rows, limits[0])


def _largest(rows: Tensor, limits: Pair) -> Tensor:
    """The largest ⟨row, x⟩ between limits: rows (B, C, *F) to (B, C)."""
    low, high = (limit.flatten(1).unsqueeze(2) for limit in limits)
    flat = rows.flatten(2)
    return (torch.bmm(flat, (low + high) / 2) + torch.bmm(flat.abs(), (high - low) / 2)).squeeze(2)


def _back(layer: nn.Module, rows: Tensor, limits: Pair, seen: Statistics) -> tuple[Tensor, Tensor | None] | None:
    """The rows (B, C, *F) over a layer's operand, and what is added to them; None where the way back ends."""
    operand = limits[0]
    if isinstance(layer, _SHAPES):
        return rows.reshape(*rows.shape[:2], *operand.shape[1:]), None
    if isinstance(layer, nn.ReLU | nn.LeakyReLU):
        return _through_relu(rows, limits, layer.negative_slope if isinstance(layer, nn.LeakyReLU) else 0.0)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        shape = (1, 1, -1, *(1,) * (operand.dim() - 2))
        scale, shift = (part.reshape(shape) for part in scale_and_shift(layer, seen))
        return rows * scale, (rows * shift).flatten(2).sum(2)
    if not isinstance(layer, _LINEAR):
        return None
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    flat = rows.flatten(0, 1)
    with torch.enable_grad():
        zeros = operand.new_zeros(len(flat), *operand.shape[1:], requires_grad=True)
        outputs = layer(zeros) if weight is None else linear_part(layer, weight, zeros)
        (below,) = torch.autograd.grad(outputs, zeros, flat, create_graph=True)
    below = below.unflatten(0, rows.shape[:2])
    if bias is None:
        return below, None
    spread = bias if isinstance(layer, nn.Linear) else bias.reshape(-1, *(1,) * (rows.dim() - 3))
    return below, (rows * spread).flatten(2).sum(2)


def _through_relu(rows: Tensor, limits: Pair, slope: float) -> tuple[Tensor, Tensor]:
    """Take the chord above where a coefficient is positive, the line below where it is negative."""
    low, high = limits
    crossing = (low < 0) & (high > 0)
    width = torch.where(crossing, high - low, torch.ones_like(low))
    inside = torch.where(low >= 0, torch.ones_like(low), torch.full_like(low, slope))
    above = torch.where(crossing, (high - slope * low) / width, inside)
    shift = torch.where(crossing, (slope - above) * low, torch.zeros_like(low))
    flatter = torch.where(high >= -low, torch.ones_like(low), torch.full_like(low, slope))
    below = torch.where(crossing, flatter, inside)
    positive = rows.clamp(min=0)
    added = (positive * shift.unsqueeze(1)).flatten(2).sum(2)
    return positive * above.unsqueeze(1) + (rows - positive) * below.unsqueeze(1), added
