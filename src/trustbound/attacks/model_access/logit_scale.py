"""The scale of a network's logits, and the power of two that brings it into an ordinary range.

Cross-entropy and the probability margin depend on the scale: at 1e-9 all probabilities are equal, at 1e9 they are 0
and 1, and neither has a gradient that float32 can hold. Where the logits' spread is out of the ordinary, surrogates
see them multiplied by a power of two, which is exact: two copies of a network that differ by a power of two, both out
of the ordinary, are searched along the same path bit for bit. Ordinary networks are left as they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Spreads of trained networks: nothing is changed between them. Outside, they become about `TYPICAL`.
LEAST, MOST, TYPICAL = 2.0**-5, 2.0**7, 2.0**3

#: From which spread a surrogate counts as saturated: with two classes the margin is twice that, and exp(-32) is alive.
SATURATED = 2.0 * TYPICAL

#: Powers that float32 holds, and their reciprocals.
MOST_POWER = 120


def spread(logits: Tensor) -> Tensor:
    """How far the largest logit of each row lies above the mean of the row's finite ones.

    Shapes      logits (B, C) -> (B,) float64.

    >>> spread(torch.tensor([[3.0, 0.0, 0.0], [1e-9, -1e-9, 0.0]])).tolist()[0]
    2.0
    """
    wide = logits.detach().double()
    known = wide.isfinite()
    kept = wide.masked_fill(~known, 0.0)
    mean = kept.sum(1) / known.sum(1).clamp_min(1)
    return wide.masked_fill(~known, -torch.inf).amax(1) - mean


def scale_for(found: float) -> float:
    """The power of two by which logits of a spread are to be multiplied: 1 for ordinary ones.

    >>> scale_for(10.0), scale_for(2.0**-30), scale_for(2.0**33), scale_for(0.0)
    (1.0, 8589934592.0, 9.313225746154785e-10, 1.0)
    """
    if not (math.isfinite(found) and found > 0.0) or LEAST <= found <= MOST:
        return 1.0
    power = round(math.log2(TYPICAL)) - round(math.log2(found))
    return 2.0 ** max(-MOST_POWER, min(MOST_POWER, power))


def logit_scales(logits: Tensor) -> Tensor | None:
    """`scale_for` of each row (B,) float64, or None where all are 1.

    >>> logit_scales(torch.tensor([[10.0, 0.0]])) is None
    True
    """
    found = torch.tensor([scale_for(value) for value in spread(logits).tolist()], dtype=torch.float64)
    return None if bool((found == 1.0).all()) else found.to(logits.device)


def alive(logit_scale: Tensor, logits: Tensor) -> Tensor:
    """Powers of two (R,) by which a surrogate of logits (R, C) has a gradient: those given, less where it saturates.

    >>> alive(torch.tensor([1024.0, 1024.0]), torch.tensor([[0.0, 0.01], [0.0, 100.0]])).tolist()
    [1024.0, 0.25]
    """
    seen = spread(logits) * logit_scale.double() / SATURATED
    excess = torch.frexp(seen.nan_to_num(0.0, 0.0, 0.0)).exponent.clamp_min(0)
    return torch.ldexp(logit_scale, -excess)
