"""How far a prediction is from changing, measured in logits."""

from __future__ import annotations

import torch
from torch import Tensor

from trustbound.errors import InputError


def pick(values: Tensor, classes: Tensor) -> Tensor:
    """The entry of each row that belongs to the row's class: values (B, C), classes (B,) -> (B,).

    >>> pick(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]))
    tensor([2., 3.])
    """
    return values.gather(1, classes.unsqueeze(1)).squeeze(1)


def runner_up(logits: Tensor, labels: Tensor) -> Tensor:
    """The best class other than the label: the class that a wrong answer would most easily be.

    Shapes      logits (B, C), C >= 2; labels (B,) int64 -> (B,) int64, without gradient.
    Ties        go to the lowest class index, whatever the batch, so that no row depends on its neighbours.

    >>> runner_up(torch.tensor([[5.0, 1.0, 2.0], [5.0, 1.0, 2.0]]), torch.tensor([0, 1]))
    tensor([2, 0])
    """
    return logits.detach().scatter(1, labels.unsqueeze(1), -torch.inf).argmax(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """True logit minus the best other one: positive is correct, negative is wrong, zero is a tie.

    Shapes      logits (B, C), C >= 2; labels (B,) int64 -> (B,), dtype kept.
    Gradient    +1 at the label, -1 at the runner-up; at a tie of runners-up, at the first of them.
    Cost        one masked maximum and one gather, with a gradient one gather more; no sort.

    >>> margin(torch.tensor([[5.0, 1.0, 2.0], [5.0, 1.0, 2.0]]), torch.tensor([0, 1]))
    tensor([ 3., -4.])
    """
    if logits.requires_grad:
        return pick(logits, labels) - pick(logits, runner_up(logits, labels))
    return pick(logits, labels) - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)


def targeted_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Target logit minus the best other one: positive means that the target is what the network answers.

    While the true class is still on top this is target logit minus true logit; at a point where a third class
    is on top it goes on pushing towards the target.

    Shapes      logits (B, C), C >= 2; targets (B,) int64 -> (B,), dtype kept.

    >>> targeted_margin(torch.tensor([[5.0, 1.0, 2.0]]), torch.tensor([2]))
    tensor([-3.])
    """
    return margin(logits, targets)


def top_two(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The two largest logits of each row with their classes: values (B, 2), classes (B, 2), best first.

    >>> values, classes = top_two(torch.tensor([[5.0, 1.0, 2.0]]))
    >>> values, classes
    (tensor([[5., 2.]]), tensor([[0, 2]]))
    """
    first = logits.detach().argmax(1)
    classes = torch.stack((first, runner_up(logits, first)), dim=1)
    return logits.gather(1, classes), classes


def rounding_error(logits: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """The size below which a margin of these logits is a tie: 4 eps max |logit|, in float64.

    eps is that of the logits' dtype or of `precision`, whichever is coarser: a bfloat16 network that hands over
    float32 is no more exact for that. Logits that all share a large shift are coarse, and their ties are wide.
    Below the smallest normal number the spacing is the same everywhere and takes the place of eps |logit|.

    A margin is one subtraction of two logits, each good to eps times its own size at best: two roundings of
    the last layer's sum and its bias, two of the subtraction's operands. It is a floor, not a bound on the
    rounding of the whole network; verdicts near it are repeated in float64.

    Shapes      logits (B, C) -> (B,) float64, without gradient. Infinite logits count for nothing.

    >>> rounding_error(torch.tensor([[8.0, -2.0]])).item() == 32 * 2.0**-23
    True
    """
    kinds = [torch.finfo(kind) for kind in (logits.dtype, precision or logits.dtype)]
    size = logits.detach().double().abs()
    largest = size.masked_fill(size.isinf(), 0.0).amax(1)
    return 4.0 * max(kind.eps for kind in kinds) * largest.clamp_min(max(kind.tiny for kind in kinds))


def margin_rows(labels: Tensor, classes: int, targets: Tensor | None = None) -> Tensor:
    """Return the rows e_y − e_j, (B, C − 1, C) for all j ≠ y, or (B, 1, C) for the target alone.

    Raises      InputError when a label or target is no class, or a target is the label itself.

    >>> margin_rows(torch.tensor([1]), 3)
    tensor([[[-1.,  1.,  0.],
             [ 0.,  1., -1.]]], dtype=torch.float64)
    """
    for name, given in (("labels", labels), ("targets", targets)):
        if given is not None and not bool(((given >= 0) & (given < classes)).all()):
            raise InputError(f"`{name}` must lie in 0 … {classes - 1}; got {int(given.min())} … {int(given.max())}")
    unit = torch.eye(classes, dtype=torch.float64, device=labels.device)
    if targets is not None:
        if bool((targets == labels).any()):
            raise InputError("`targets` must differ from `labels`; got the same class for some examples")
        return (unit[labels] - unit[targets]).unsqueeze(1)
    others = torch.arange(classes - 1, device=labels.device).expand(len(labels), -1)
    others = others + (others >= labels.unsqueeze(1))
    return unit[labels].unsqueeze(1) - unit[others]
