"""The surrogate losses that attacks climb, each (logits, labels, targets=None) -> (B,).

Every function here is *climbed*: larger is better for the adversary. Without `targets` it leads away from
`labels`; with `targets` it leads to them. Each row is a function of its own logits only. `loss(name)` finds
one by name; `metrics/registry.py` lists the names without importing torch.

Nothing is checked here, since these run once per step and example: validate at the public edge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trustbound.metrics.margin import margin as true_margin
from trustbound.metrics.margin import pick, runner_up
from trustbound.metrics.registry import LOSSES

LOG_2 = math.log(2.0)


class Loss(Protocol):
    """What an attack climbs: logits (B, C), labels (B,), targets (B,) or None -> (B,)."""

    def __call__(self, logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return one number per example, larger for the adversary."""
        ...


def ce(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Cross-entropy of the label, or minus that of the target; computed from log-softmax, never infinite
    for finite logits.

    Reference   Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, 2015
                (1412.6572).
    Deviations  none.

    >>> ce(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    tensor([0.6931])
    """
    if targets is None:
        return F.cross_entropy(logits, labels, reduction="none")
    return -F.cross_entropy(logits, targets, reduction="none")


def margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Best other logit minus the true one, or target logit minus the best other one; >= 0 is success.

    >>> logits = torch.tensor([[5.0, 1.0, 2.0]])
    >>> margin(logits, torch.tensor([0])), margin(logits, torch.tensor([0]), torch.tensor([1]))
    (tensor([-3.]), tensor([-4.]))
    """
    if targets is None:
        return pick(logits, runner_up(logits, labels)) - pick(logits, labels)
    return true_margin(logits, targets)


def difference(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Target logit minus the true one: 0 on the boundary between the two, whichever others lie above both.

    Without a target it is the margin.

    >>> difference(torch.tensor([[5.0, 1.0, 2.0]]), torch.tensor([0]), torch.tensor([1]))
    tensor([-4.])
    """
    return margin(logits, labels) if targets is None else pick(logits, targets) - pick(logits, labels)


def probability_margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The margin loss on softmax probabilities, in [-1, 1]: it fades where the network is sure, so that steps
    are spent on what can still be moved.

    >>> probability_margin(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([1]))
    tensor([0.])
    """
    return margin(logits.softmax(1), labels, targets)


def soft_margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The margin loss with a log-sum-exp in place of the maximum: the log-odds of a wrong answer.

    Cross-entropy is softplus of it, so that both lead the same way; but its gradient never vanishes, however
    sure the network is, where that of cross-entropy is 0 in float32 from a margin of 17. Unlike the margin it
    does not commit to one class.

    >>> soft_margin(torch.tensor([[100.0, 0.0, 0.0]]), torch.tensor([0]))
    tensor([-99.3069])
    """
    chosen = labels if targets is None else targets
    others = logits.scatter(1, chosen.unsqueeze(1), -torch.inf).logsumexp(1)
    ascent = others - pick(logits, chosen)
    return ascent if targets is None else -ascent


def scaled_soft_margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The soft margin at a temperature of the row's own: a sixth of its largest logit's lead over the mean.

    The soft margin weighs classes by their logits, so that what it leads to changes with the logits' scale: at small
    ones it climbs towards all classes at once, at large ones towards the best alone. Here the weights, and with them
    the direction of the gradient, are those of any multiple or shift of the logits. The temperature counts as a
    constant. Six was best of 3 to 50 in searches for the smallest change, on plain, hardened and linear networks.

    >>> z, y = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0])
    >>> bool((scaled_soft_margin(2 * z + 5, y) - 2 * scaled_soft_margin(z, y)).abs() < 1e-5)
    True
    """
    values = logits.detach()
    top = values.amax(1, keepdim=True)
    temperature = (top - values.mean(1, keepdim=True)) / 6.0
    temperature = temperature.clamp_min(torch.finfo(logits.dtype).tiny)
    return soft_margin((logits - top) / temperature, labels, targets) * temperature.squeeze(1)


def dlr(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Difference of logits ratio: the margin over the spread of the top logits, blind to scale and shift.

    Untargeted  -(z_y - max_{i != y} z_i) / (z_(1) - z_(3)).
    Targeted    -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2).
    Reference   Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
                Parameter-free Attacks, 2020 (2003.01690), equations 3 and 4.
    Deviations  The paper needs three classes, four with a target. With two classes every such ratio is the
                constant +-1, and with three and a target it is -1 for as long as the target ranks last, which
                nobody can climb, so z_t - z_y (the plain margin) is returned: its direction is the right one,
                and searches compare losses of one example only, so the lost scale invariance costs nothing
                there. The denominator
                is kept at or above 1e-12 (the smallest normal number in half precision), where the paper
                divides by 0.

    >>> z, y = torch.tensor([[3.0, 1.0, 0.0, -1.0]]), torch.tensor([0])
    >>> dlr(z, y), dlr(1000 * z + 7, y)
    (tensor([-0.6667]), tensor([-0.6667]))
    >>> dlr(z[:, :2], y)
    tensor([-2.])
    """
    classes = logits.shape[1]
    if targets is None:
        ascent = margin(logits, labels)
    else:
        ascent = pick(logits, targets) - pick(logits, labels)
    if classes < (3 if targets is None else 4):
        return ascent
    ranked = logits.topk(3 if targets is None else 4, dim=1).values
    low = ranked[:, 2] if ranked.shape[1] == 3 else (ranked[:, 2] + ranked[:, 3]) / 2
    return ascent / (ranked[:, 0] - low).clamp_min(max(1e-12, torch.finfo(logits.dtype).tiny))


def absolute_error(scores: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Mean absolute error of a regression, of scores that hold each error from above and from below.

    Shapes      scores (B, 1 + 2 K) of `tasks.regression`: 0, error − tolerance, −error − tolerance, and so on.

    >>> absolute_error(torch.tensor([[0.0, 3.0, -7.0]]), torch.tensor([0]))
    tensor([5.])
    """
    return _errors(scores).abs().mean(1)


def squared_error(scores: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Mean squared error of a regression; see `absolute_error`.

    >>> squared_error(torch.tensor([[0.0, 3.0, -7.0]]), torch.tensor([0]))
    tensor([25.])
    """
    return _errors(scores).square().mean(1)


def _errors(scores: Tensor) -> Tensor:
    """Prediction minus target, (B, K)."""
    return (scores[:, 1::2] - scores[:, 2::2]) / 2


def f1(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Carlini and Wagner's f1, negated to be climbed: log 2 - CE_t; >= 0 means target probability >= 1/2.

    All seven f_i are stated for a target t; without one, t is the best wrong class at the point itself, and
    then f6 is the usual (z_y - max_{i != y} z_i)^+ for as long as y is on top.

    Reference   Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, 2017 (1608.04644),
                IV-A.
    Deviations  The printed f1, -loss + 1, has the wrong sign; the printed f5, -log(2 F_t - 2), is defined
                nowhere. Used instead: f1 = CE_t - log 2 and f5 = -log(2 F_t), which are one and the same
                function.

    >>> f1(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), torch.tensor([1]))
    tensor([0.])
    """
    return LOG_2 - F.cross_entropy(logits, _aim(logits, labels, targets), reduction="none")


def f2(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Carlini and Wagner's f2, climbed: -(max_{i != t} F_i - F_t)^+; zero is success. See `f1`."""
    return true_margin(logits.softmax(1), _aim(logits, labels, targets)).clamp_max(0.0)


def f3(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Carlini and Wagner's f3, climbed: log 2 - softplus(max_{i != t} F_i - F_t); >= 0 is success."""
    return LOG_2 - F.softplus(-true_margin(logits.softmax(1), _aim(logits, labels, targets)))


def f4(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Carlini and Wagner's f4, climbed: -(1/2 - F_t)^+; zero means target probability >= 1/2. See `f1`."""
    return (pick(logits.softmax(1), _aim(logits, labels, targets)) - 0.5).clamp_max(0.0)


def f5(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Carlini and Wagner's f5, climbed: log(2 F_t), in log space; identical to `f1`, kept for its name."""
    return f1(logits, labels, targets)


def f6(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Carlini and Wagner's f6, climbed: -(max_{i != t} Z_i - Z_t)^+; zero is success. See `f1`.

    >>> f6(torch.tensor([[5.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([-3.])
    """
    return true_margin(logits, _aim(logits, labels, targets)).clamp_max(0.0)


def f7(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Carlini and Wagner's f7, climbed: log 2 - softplus(max_{i != t} Z_i - Z_t); >= 0 is success."""
    return LOG_2 - F.softplus(-true_margin(logits, _aim(logits, labels, targets)))


def _aim(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """The class that Carlini and Wagner's functions lead to."""
    return runner_up(logits, labels) if targets is None else targets


#: A plain mapping, which a compiled gradient function can look into.
_FUNCTIONS: Mapping[str, Loss] = MappingProxyType({name: LOSSES.load(name) for name in LOSSES.names})


def loss(name: str) -> Loss:
    """Find a loss by its name.

    >>> loss("dlr") is dlr
    True
    >>> loss("hinge")
    Traceback (most recent call last):
    trustbound.errors.InputError: a loss must be one of ce, margin, difference, ...; got 'hinge'. ...
    """
    try:
        return _FUNCTIONS[name]
    except KeyError:
        raise LOSSES.unknown(name) from None
