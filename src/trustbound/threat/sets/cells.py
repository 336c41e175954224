"""Limits of every pixel while the parameters of transformations lie in a cell: what proofs about them rest on.

Pixels are looked up at places that move with θ. Where a place may be anywhere in a rectangle, the bilinear picture is
least and largest at a corner of one of the parts into which the pixels' grid cuts it: it is linear along each axis of
a part. So limits of the places give limits of the pixels, and nothing is lost but that θ moves all places together.

Floating point is charged outward: what a search computes in its own precision lies between the limits, and so does
what the transformation is in exact arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trustbound.record.box import Box
from trustbound.threat.sets.transformation import Geometric, Pointwise
from trustbound.threat.sets.transformations import Transformations

#: Roundings of a place, in units of the picture's sides: a search's angle, sine, products and grid, one kind after
#: another. They are less than a third of this.
PLACES = 32

#: Roundings of a value, in units of the largest one: four weights, their products, and what is added to the sum.
VALUES = 16

#: Numbers of one piece of work, about.
AT_ONCE = 1 << 22


def cell_limits(
    perturbations: Transformations,
    inputs: Tensor,
    box: Box,
    floor: Tensor,
    ceiling: Tensor,
    working: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Limits (R, *F), float64, of all that θ between floor and ceiling (R, P) makes of inputs (R, *F).

    Parameters
        working     the precision that a search rounds its inputs to and applies θ in.

    >>> from trustbound.threat import Threat
    >>> picture, still = torch.tensor([[[[0.0, 0.0, 1.0]] * 2]]), torch.zeros(1, 2)
    >>> shifts = Threat.parse("translation:1").perturbations
    >>> low, high = cell_limits(shifts, picture, Box(0.0, 1.0), still, torch.tensor([[0.5, 0.0]]))
    >>> low[0, 0, 0].round(decimals=3).abs().tolist(), high[0, 0, 0].round(decimals=3).tolist()
    ([0.0, 0.0, 0.5], [0.0, 0.0, 1.0])
    """
    if not len(inputs):
        return inputs.double(), inputs.double()
    few = max(1, AT_ONCE // (16 * max(1, inputs[0].numel())))
    parts = [
        _limits(perturbations, *part, box, working)
        for part in zip(inputs.detach().split(few), floor.double().split(few), ceiling.double().split(few), strict=True)
    ]
    return torch.cat([low for low, _ in parts]), torch.cat([high for _, high in parts])


def _limits(
    perturbations: Transformations, inputs: Tensor, floor: Tensor, ceiling: Tensor, box: Box, working: torch.dtype
) -> tuple[Tensor, Tensor]:
    lowest, highest = _both(inputs, working)
    low, high = (torch.as_tensor(limit, dtype=torch.float64, device=inputs.device) for limit in (box.low, box.high))
    low, high = _both(low, working)[0], _both(high, working)[1]
    column = 0
    seen: list[tuple[type[Geometric], Tensor, Tensor]] = []
    for kind in perturbations.kinds:
        part = slice(column, column + kind.columns)
        column += kind.columns
        if issubclass(kind, Geometric):
            seen.append((kind, floor[:, part], ceiling[:, part]))
            continue
        if seen:
            lowest, highest = _resampled(lowest, highest, seen, box, low, high, working)
            seen = []
        if issubclass(kind, Pointwise):
            size = torch.maximum(lowest.abs(), highest.abs()).flatten(1).amax(1)
            size = size + torch.maximum(floor[:, part].abs(), ceiling[:, part].abs()).amax(1)
            lowest, highest = kind.limits(lowest, highest, floor[:, part], ceiling[:, part], low, high)
            noise = VALUES * (torch.finfo(working).eps + torch.finfo(torch.float64).eps) * size
            lowest, highest = _outward(lowest, highest, noise, low, high)
    return _resampled(lowest, highest, seen, box, low, high, working) if seen else (lowest, highest)


def _both(values: Tensor, working: torch.dtype) -> tuple[Tensor, Tensor]:
    """The lesser and the larger of numbers, as they are and as a precision holds them."""
    whole, held = values.double(), values.to(working).double()
    return torch.minimum(whole, held), torch.maximum(whole, held)


def _outward(lowest: Tensor, highest: Tensor, noise: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Limits moved apart by what a value may round, (R,), and clipped to the box as a search clips."""
    noise = noise.reshape(-1, *(1,) * (lowest.dim() - 1))
    return (lowest - noise).clamp(low, high), (highest + noise).clamp(low, high)


def _resampled(
    lowest: Tensor,
    highest: Tensor,
    seen: list[tuple[type[Geometric], Tensor, Tensor]],
    box: Box,
    low: Tensor,
    high: Tensor,
    working: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Limits of pictures between two (R, C, H, W) that are resampled once through kinds that stand side by side."""
    height, width = lowest.shape[2:]
    x = torch.arange(width, dtype=torch.float64, device=lowest.device) - (width - 1) / 2
    y = torch.arange(height, dtype=torch.float64, device=lowest.device) - (height - 1) / 2
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(1, -1, 2)
    places = places.expand(len(lowest), -1, -1)
    spread = torch.zeros_like(places)
    # The last kind is looked through first: back is first · second · … · last.
    for kind, floor, ceiling in reversed(seen):
        places, spread = kind.looked(places, spread, floor, ceiling)
    share = PLACES * (len(seen) + 1) * (torch.finfo(working).eps / 2 + torch.finfo(torch.float64).eps)
    far = height + width + (places.abs() + spread).flatten(1).amax(1)
    spread = spread + share * far.reshape(-1, 1, 1)
    fills = _both(torch.as_tensor(box.low, dtype=torch.float64, device=lowest.device), working)
    size = torch.maximum(lowest.abs(), highest.abs()).flatten(1).amax(1)
    size = size + max(float(fill.abs().max()) for fill in fills)
    found = _over_rectangles(lowest, highest, places, spread, fills)
    # the second: how far the places at which values are asked for here are from those that are meant
    noise = VALUES * (torch.finfo(working).eps + (height + width) * torch.finfo(torch.float64).eps) * size
    return _outward(*found, noise, low, high)


def _over_rectangles(
    lowest: Tensor, highest: Tensor, places: Tensor, spread: Tensor, fills: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The least and the largest of bilinear pictures over rectangles places ± spread (R, H·W, 2)."""
    height, width = lowest.shape[2:]
    sides = torch.tensor([width, height], dtype=torch.float64, device=lowest.device)
    # From one pixel outside on there is nothing but what comes in.
    first, last = ((places + sign * spread + (sides - 1) / 2).clamp(min=-1.0) for sign in (-1, 1))
    first, last = torch.minimum(first, sides), torch.minimum(last, sides)
    across, down = (_breaks(first[:, :, axis], last[:, :, axis]) for axis in (0, 1))
    framed = [
        functional.pad(pictures - fill, (2, 2, 2, 2)) for pictures, fill in zip((lowest, highest), fills, strict=True)
    ]
    least, largest = torch.full_like(lowest, torch.inf).flatten(2), torch.full_like(highest, -torch.inf).flatten(2)
    for height_of in down:
        # Two pixels of what comes in on each side, so that every place has its four neighbours.
        grid = torch.stack([across, height_of.expand_as(across)], dim=-1).transpose(0, 1)
        grid = (2.0 * (grid + 2.0) + 1.0) / (sides + 4.0) - 1.0
        under, over = (
            functional.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
            for pictures in framed
        )
        least, largest = torch.minimum(least, under.amin(2)), torch.maximum(largest, over.amax(2))
    return least.reshape(lowest.shape) + fills[0], largest.reshape(highest.shape) + fills[1]


def _breaks(first: Tensor, last: Tensor) -> Tensor:
    """Both ends (R, N) of ranges, and the whole numbers between them; short ranges repeat their last: (K, R, N)."""
    start = first.floor()
    most = max(2, int((last.ceil() - start).amax()) + 1)
    between = [torch.minimum(start + step, last) for step in range(1, most - 1)]
    return torch.stack([first, *between, last])
