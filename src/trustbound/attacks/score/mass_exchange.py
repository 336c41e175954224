"""Proposals of random search under l2 and l1: mass moved between windows, or between two coordinates.

The *mass* of a coordinate is δ² under l2 and |δ| under l1 (`power` 2 and 1): masses add up, and a change at the edge of
the ball has mass ε^power. Everything here works on the flat view (B, channels, height · width), in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12
# Rounds of `filled` and by how much the last ones still raise the scale: the clipped set only grows.
_ROUNDS, _RAISED = 8, 1.0 + 1e-6


def mass(values: Tensor, power: int) -> Tensor:
    """Squares (l2) or absolute values (l1)."""
    return values.square() if power == 2 else values.abs()


def length(masses: Tensor, power: int) -> Tensor:
    """The length that a sum of masses stands for."""
    return masses.sqrt() if power == 2 else masses


def rearranged(change: Tensor, here: Tensor, there: Tensor, fresh: Tensor, reach: Tensor, power: int = 2) -> Tensor:
    """Put a pattern into one window and give it the mass that the other window, reset, gives up.

    Each channel keeps the mass that its own two windows held, and gets its part of what is unused.

    Shapes      change (B, C, H · W); here, there (B, n) positions of the two windows; fresh (B, C, n) patterns;
                reach (B,) the whole change's length.
    """
    channels = change.shape[1]
    rows_here, rows_there = (place[:, None, :].expand(-1, channels, -1) for place in (here, there))
    window = change.gather(2, rows_here)
    emptied = change.scatter(2, rows_there, 0.0).scatter(2, rows_here, 0.0)
    whole = mass(change, power).sum(dim=2)
    held = (whole - mass(emptied, power).sum(dim=2)).clamp(min=0.0)
    spare = (reach**power - whole.sum(dim=1)).clamp(min=0.0)
    mixed = fresh + window / (window.norm(p=power, dim=2, keepdim=True) + _TINY)
    wanted = length((spare / channels)[:, None] + held, power)
    mixed = mixed / (mixed.norm(p=power, dim=2, keepdim=True) + _TINY) * wanted[:, :, None]
    return emptied.scatter(2, rows_here, mixed)


def turned(change: Tensor, places: Tensor, angle: Tensor, reach: Tensor) -> Tensor:
    """Under l2, share out anew what two coordinates hold together, and what is unused.

    Shapes      change (B, C, H · W); places (B, 2) of the flat change, different; angle (B,) by which the pair turns;
                reach (B,) the whole change's length.
    """
    flat = change.flatten(1)
    pair = flat.gather(1, places)
    held = pair.square().sum(dim=1)
    spare = (reach.square() - flat.square().sum(dim=1)).clamp(min=0.0)
    at = torch.atan2(pair[:, 1], pair[:, 0]) + angle
    moved = (held + spare).sqrt()[:, None] * torch.stack([at.cos(), at.sin()], dim=1)
    return flat.scatter(1, places, moved).reshape(change.shape)


def carried(change: Tensor, numbers: Tensor, down: Tensor, up: Tensor, reach: Tensor) -> Tensor:
    """Under l1, carry what one coordinate holds to another, and what is unused.

    The first is drawn by its mass, the second is any; its direction is drawn by the room that the box leaves it.

    Shapes      change (B, C, H · W); numbers (B, 3) uniform; down, up (B, D) room to the box, not negative;
                reach (B,) the whole change's length.
    """
    flat = change.flatten(1)
    features = flat.shape[1]
    heaped = flat.abs().cumsum(dim=1)
    whole = heaped[:, -1:]
    first, second, side = numbers[:, :, None].unbind(dim=1)
    source = torch.searchsorted(heaped, first * whole, right=True).clamp(max=features - 1)
    target = (second * features).to(torch.int64).clamp(max=features - 1)
    below, above = down.gather(1, target), up.gather(1, target)
    held = flat.gather(1, source).abs() + flat.gather(1, target).abs().masked_fill(source == target, 0.0)
    held = held + (reach[:, None] - whole).clamp(min=0.0)
    placed = torch.where(side * (below + above) < above, torch.minimum(held, above), -torch.minimum(held, below))
    return flat.scatter(1, source, 0.0).scatter(1, target, placed).reshape(change.shape)


def filled(change: Tensor, down: Tensor, up: Tensor, reach: Tensor, power: int) -> Tensor:
    """The change stretched until it has its whole length *inside* the box: clip(μ δ) of length `reach`, (B, D).

    Stretched first and clipped afterwards, a change loses what the box cuts off: half of every pattern on a black
    ground. With the clipped set fixed, μ is known in closed form; the set only grows with μ. A few rounds suffice, and
    a change that they leave shorter is allowed too. Where the box stops every coordinate, nothing is left to stretch.

    Shapes      change (B, D); down, up (B, D) room to the box, not negative; reach (B,).

    >>> change = torch.tensor([[3.0, 4.0, 0.0]], dtype=torch.float64)
    >>> room = torch.tensor([[1.0, 0.5, 1.0]], dtype=torch.float64)
    >>> filled(change, room, room, torch.tensor([1.0], dtype=torch.float64), 1)
    tensor([[0.5000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    tiny = torch.finfo(change.dtype).tiny
    masses, goal = mass(change, power), reach**power
    whole = masses.sum(dim=1)
    scale = torch.where(whole > tiny, length(goal / whole.clamp(min=tiny), power), 0.0)
    stretched = change * scale[:, None]
    stopped = torch.maximum(torch.minimum(stretched, up), -down)
    for _ in range(_ROUNDS):
        held = stopped != stretched
        rest = (goal - (mass(stopped, power) * held).sum(dim=1)).clamp(min=0.0)
        moving = masses.masked_fill(held, 0.0).sum(dim=1)
        raised = torch.where(moving > tiny, length(rest / moving.clamp(min=tiny), power), scale)
        # Rows that have arrived stay as they are, however many rounds the other rows of the batch need.
        grown = raised > scale * _RAISED
        if not bool(grown.any()):
            break
        scale = torch.where(grown, raised, scale)
        stretched = change * scale[:, None]
        stopped = torch.maximum(torch.minimum(stretched, up), -down)
    return stopped
