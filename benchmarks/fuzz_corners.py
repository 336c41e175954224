"""Random networks that do something at one corner of the box alone, where no random point falls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from benchmarks.fuzz_networks import Builder


def towards(b: Builder, units: int, alike: float) -> tuple[nn.Linear, Tensor, Tensor]:
    """Return sums with signs for weights and no bias yet, the corner (units, F) where each is largest, and how large.

    `alike` is how often all have one corner.
    """
    low, high = b.box
    part = nn.Linear(b.h.shape[1], units).double()
    signs = torch.where(b.normal(*part.weight.shape) < 0, -1.0, 1.0).double()
    if b.chance.random() < alike:
        signs = signs[:1].repeat(units, 1)
    with torch.no_grad():
        part.weight.copy_(signs)
    return part, torch.where(signs > 0, high, low), torch.where(signs > 0, high, -low).sum(1)


def gate(b: Builder) -> None:
    """Emit sums that rise above zero in one corner of the box alone, where no random point falls; inputs lie there."""
    if b.h.ndim != 2:
        b.emit("h = h.flatten(1)")
    low, high = b.box
    b.emit(f"h = h.clamp({low!r}, {high!r})")
    part, b.corners, most = towards(b, b.chance.choice((2, 4, 4, 6)), 0.5)
    size = b.chance.choice((1.0, 100.0)) / (high - low)
    with torch.no_grad():
        part.weight.copy_(part.weight * size)
        part.bias.copy_((-most + (high - low) * b.chance.choice((0.3, 0.6, 1.5))) * size)
    b.emit("r0 = h") and b.saved.append("r0")
    b.emit(f"h = self.{b.part(part)}(h)")


def brim(b: Builder) -> None:
    """Emit sums that leave the range of the precision near one corner alone, and logits that a bias decides.

    In exact arithmetic nothing changes there, so that a proof that forgets the range holds for the whole box; as the
    network runs it answers NaN. The inputs are the corner and a point close by that the range still holds.
    """
    low, high = b.box
    if b.h.ndim != 2:
        b.emit("h = h.flatten(1)")
    # A reader looks far outside the box too, where an unlimited float64 network would show it the overflow.
    if b.h.dtype == torch.float64 or b.chance.random() < 0.5:
        b.emit(f"h = h.clamp({low!r}, {high!r})")
    middle, units = (low + high) / 2, b.chance.choice((2, 4, 7))
    b.emit(f"h = (h - {middle!r}) * {2 / (high - low)!r}")
    part, corners, _ = towards(b, units, 0.8)
    largest = torch.finfo(b.h.dtype).max
    with torch.no_grad():
        part.weight.mul_(largest / part.in_features * b.chance.choice((1.05, 1.2, 1.3)))
        part.bias.zero_()
    b.corners = torch.cat([corners[:2], middle + (corners[:2] - middle) * b.chance.choice((0.1, 0.6, 0.8))])
    b.emit(f"h = self.{b.part(part)}(h)")
    if b.chance.random() < 0.5:
        b.emit(b.chance.choice(("h = F.relu(h)", "h.relu_()", "h = F.leaky_relu(h, 0.1)")))
    root = 1 / math.sqrt(largest)
    b.emit(f"h = h * {root!r} * {root!r}")
    last = nn.Linear(units, b.classes).double()
    with torch.no_grad():
        last.weight.copy_(b.normal(*last.weight.shape))
        last.bias.copy_(b.normal(b.classes))
        last.bias[b.chance.randrange(b.classes)] += 10.0 * units
    b.complete = b.emit(f"h = self.{b.part(last)}(h)")


def corner(b: Builder, most: float) -> bool:
    """Emit a factor that carries a value beyond the range near one corner of the box alone, and take it back later."""
    try:
        corners, far = b.extremes()
    except RuntimeError:
        return False
    peak = float(far.amax())
    if not (0 < peak < 1e300) or float(b.truth["h"].abs().amax()) > 0.85 * peak:
        return False
    size = most / (0.93 * peak)
    root = math.sqrt(size)
    if not (0 < size < 1e300 and b.emit(f"h = h * {root!r} * {root!r}")):
        return False
    b.corners, b.undo = corners[far.argsort(descending=True)], 1 / size
    return True
