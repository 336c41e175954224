"""The smallest change inside a box that carries a point onto a hyperplane, in l∞, l2 and l1."""

from __future__ import annotations

import torch
from torch import Tensor


def shortest(normal: Tensor, gap: Tensor, down: Tensor, up: Tensor, norm: str) -> Tensor:
    """Return δ of least norm with ⟨normal, δ⟩ = gap and −down ≤ δ ≤ up; where none reaches, the one that comes nearest.

    Shapes      normal (B, D); gap (B,); down, up (B, D), nowhere negative; returns (B, D).
    Cost        a few passes over B x D numbers (l∞, l2), or one sort of each row (l1).
    Reference   Croce and Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack, 2020
                (1907.02044), section 2.2; Hein and Andriushchenko, Formal guarantees on the robustness of a
                classifier, 2017 (1705.08475), for the box.

    >>> slope, room = torch.tensor([[3.0, 4.0]]), torch.ones(1, 2)
    >>> [shortest(slope, torch.tensor([2.5]), room, room, norm).tolist() for norm in ("l2", "l1")]
    [[[0.30000001192092896, 0.4000000059604645]], [[0.0, 0.625]]]
    """
    towards = normal * gap.sign().unsqueeze(1)
    size, wanted = towards.abs(), gap.abs()
    room = torch.where(towards > 0, up, down).clamp(min=0)
    length = _filled(size, wanted, room) if norm == "l1" else _levelled(size, wanted, room, norm)
    return towards.sign() * length


def _levelled(size: Tensor, wanted: Tensor, room: Tensor, norm: str) -> Tensor:
    """Lengths min(λ · pace, room) with the λ at which they close the gap; pace is 1 in l∞ and the slope in l2.

    What is closed is concave and piecewise linear in λ. Newton's steps from below never pass the answer and stop at it
    after as many pieces as they meet, a handful; a row that stands is not moved by others that still go on.
    """
    pace = torch.ones_like(size) if norm == "linf" else size
    closing, least = size * pace, torch.finfo(size.dtype).tiny
    level = torch.zeros_like(wanted)
    while True:
        full = level.unsqueeze(1) * pace >= room
        rest = wanted - (size * room).masked_fill(~full, 0.0).sum(1)
        slope = closing.masked_fill(full, 0.0).sum(1)
        found = torch.where(slope > 0, rest / slope.clamp(min=least), torch.inf)
        rises = (found > level) & level.isfinite()
        if not bool(rises.any()):
            break
        level = torch.where(rises, found, level)
    return torch.where(size > 0, torch.fmin(level.unsqueeze(1) * pace, room), 0.0)


def _filled(size: Tensor, wanted: Tensor, room: Tensor) -> Tensor:
    """Steepest coordinates first, each to the end of its room, the last as far as it takes."""
    steep, order = size.sort(dim=1, descending=True, stable=True)
    space = room.gather(1, order)
    closed = (steep * space).cumsum(1)
    left = wanted.unsqueeze(1) - (closed - steep * space)
    length = torch.minimum(left.clamp(min=0.0) / steep.clamp(min=torch.finfo(size.dtype).tiny), space)
    return torch.zeros_like(size).scatter_(1, order, torch.where(steep > 0, length, 0.0))
