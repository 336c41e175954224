"""How the weights move: optimizer and learning rate, both pure functions of the recipe's numbers.

The schedule is a function of the step's number, not an object with a state: nothing of it needs to be saved,
and step 1,234 has the same rate whether the run was interrupted or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from trustbound.errors import InputError

Schedule = Callable[[float], float]

#: Part of the run after which the one-cycle schedule has reached its peak.
WARM = 0.3
#: Part of the run after which the cyclic (triangular) schedule has reached its peak: 2/5 as in Fast AT.
PEAK = 0.4


def _constant(share: float) -> float:
    return 1.0


def _cosine(share: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * share))


def _one_cycle(share: float) -> float:
    if share < WARM:
        return 0.04 + 0.96 * _cosine(1.0 - share / WARM)
    return _cosine((share - WARM) / (1.0 - WARM))


def _cyclic(share: float) -> float:
    return share / PEAK if share < PEAK else (1.0 - share) / (1.0 - PEAK)


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {"constant": _constant, "cosine": _cosine, "one-cycle": _one_cycle, "cyclic": _cyclic}
)
OPTIMIZERS = ("sgd", "adam")


def factor(schedule: str, done: int, total: int) -> float:
    """What the peak learning rate is multiplied with in step `done` of `total`, in (0, 1].

    The step's middle, (done + 1/2) / total, is looked up: no step is taken with rate 0.

    cosine      from 1 to 0 along half a cosine (Loshchilov and Hutter 2017, without restarts).
    one-cycle   from 1/25 up to 1 in the first 30 %, then down to 0, both along cosines (Smith 2018, as in
                torch's OneCycleLR; momentum is left alone).
    cyclic      a triangle, 0 to 1 in the first 2/5, then down to 0 (Wong, Rice and Kolter 2020).

    >>> [round(factor("cyclic", step, 5), 2) for step in range(5)]
    [0.25, 0.75, 0.83, 0.5, 0.17]
    """
    return SCHEDULES[schedule]((done + 0.5) / total)


def build_optimizer(
    name: str, weights: Iterable[nn.Parameter], *, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam with its weight decay taken from the weights (AdamW).

    >>> build_optimizer("sgd", nn.Linear(2, 2).parameters(), learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    SGD (...)
    """
    kept = list(weights)
    if name == "sgd":
        return torch.optim.SGD(kept, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
    if name == "adam":
        return torch.optim.AdamW(kept, lr=learning_rate, weight_decay=weight_decay)
    raise InputError(f"`optimizer` must be one of {', '.join(OPTIMIZERS)}; got {name!r}")
