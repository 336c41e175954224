"""Points at which a list and a module are compared: data, the box, its corners, far out, both sides of branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trustbound.certificates.graph.operations import Activation, Input, Operation

#: How many box widths out the farthest points stand.
FAR = 1000.0
_BRANCHES = 4  # units of one activation that are pushed to the side on which no point lies
_PUSHED = 32  # and of all together


def values(operations: Sequence[Operation], inputs: Tensor) -> list[Tensor]:
    """Return what every step holds."""
    found: list[Tensor] = []
    for step in operations:
        operands = [inputs] if isinstance(step, Input) else [found[source] for source in step.sources]
        found.append(step.apply(*operands))
    return found


def trial_points(
    operations: Sequence[Operation], shown: Tensor, box: Any, dtype: torch.dtype, each: int
) -> tuple[Tensor, Tensor]:
    """Return points (N, *F) in float64 that are numbers of `dtype`, and which of them lie in the box (N,).

    About 40 points for `each` = 8 come before at most 32 that are searched: for every activation, units of which no
    point yet lies on one side of zero are pushed there by the sign of their gradient, in the box and far out.
    """
    chance = torch.Generator().manual_seed(20240229)
    shape, device = tuple(shown.shape[1:]), shown.device
    limits = (shown.min(), shown.max()) if box is None else (box.low, box.high)
    low, high = (torch.as_tensor(limit, dtype=torch.float64, device=device).expand(shape).clone() for limit in limits)
    wide = torch.where(high > low, high - low, 1.0)
    share = torch.rand((each, *shape), generator=chance, dtype=torch.float64).to(device)
    mixed = torch.where(share < 0.5, low, high)
    hot = torch.zeros(each, low.numel(), dtype=torch.bool)
    hot[torch.arange(each), torch.randint(low.numel(), (each,), generator=chance)] = True
    hot = hot.to(device).reshape(each, *shape)
    one = torch.where(hot, high, low)
    one[1::2] = torch.where(hot, low, high)[1::2]
    centre = (low + high) / 2
    inside = torch.cat([shown[:each], low + (high - low) * share, mixed, torch.stack([low, high, centre]), one])
    sign = torch.rand((each, *shape), generator=chance, dtype=torch.float64).to(device) * 2 - 1
    scales = torch.tensor([1.0, 10.0, 100.0, FAR], dtype=torch.float64, device=device)
    scales = scales[torch.arange(each, device=device) % 4].reshape(-1, *[1] * len(shape))
    far = torch.cat([centre + wide * scales * sign, centre - wide * scales * torch.where(sign < 0, -1.0, 1.0)])
    ends = torch.stack([centre + wide * FAR, centre - wide * FAR])
    points = torch.cat([inside, far, ends])
    pushed = _push(operations, points, centre, wide)
    points = torch.cat([points, pushed])
    largest = torch.finfo(dtype).max / 4
    points = points.clamp(-largest, largest).to(dtype).double()
    within = torch.arange(len(points), device=device) < len(inside)
    return points, within


def _push(operations: Sequence[Operation], points: Tensor, centre: Tensor, wide: Tensor) -> Tensor:
    """Return points at which units stand on the side of zero where none of `points` has them."""
    found = values(operations, points)
    wanted: list[tuple[int, int, float]] = []
    for step in operations:
        if isinstance(step, Activation):
            before = found[step.sources[0]].flatten(1)
            unseen = [(unit, -1.0) for unit in (before.amin(0) >= 0).nonzero()[:, 0].tolist()]
            unseen += [(unit, 1.0) for unit in (before.amax(0) <= 0).nonzero()[:, 0].tolist()]
            kept = unseen[:: max(1, len(unseen) // _BRANCHES)][:_BRANCHES]
            wanted += [(step.sources[0], unit, side) for unit, side in kept]
    wanted = wanted[: _PUSHED // 2]
    if not wanted:
        return points[:0]
    start = centre.expand(len(wanted), *centre.shape).clone().requires_grad_()
    with torch.enable_grad():
        found = values(operations, start)
        total = sum(side * found[index][row].flatten()[unit] for row, (index, unit, side) in enumerate(wanted))
        (slope,) = torch.autograd.grad(total, start)  # type: ignore[arg-type]
    return torch.cat([centre + wide * reach * slope.sign() for reach in (0.5, FAR)]).detach()
