"""Windows of pictures and the l2 patterns that random search puts into them.

Everything here works on the flat view (B, channels, height · width); inputs (B, F) are one row of F columns.
Reference   Andriushchenko et al., Square Attack, 2020 (1912.00049), Algorithm 3 and its published code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TINY = 1e-12


def layout(shape: torch.Size | tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of inputs (B, *F): the last two axes are the picture's.

    A picture of one column is taken as one row, and one of a single pixel as a row of its channels.

    >>> layout((16, 3, 32, 32)), layout((16, 20)), layout((16, 3, 9, 1)), layout((16, 5, 1, 1))
    ((3, 32, 32), (1, 1, 20), (3, 1, 9), (1, 1, 5))
    """
    if len(shape) == 2:
        return 1, 1, shape[1]
    channels = math.prod(shape[1:-2])
    height, width = shape[-2:]
    if height == width == 1:
        return 1, 1, channels
    return (channels, height, width) if width > 1 else (channels, 1, height)


def window_size(height: int, width: int, share: float, *, odd: bool = False) -> tuple[int, int]:
    """Height and width of the window that holds a share of the picture; an interval where height is 1.

    >>> window_size(32, 32, 0.05), window_size(1, 20, 0.2), window_size(32, 32, 0.1, odd=True)
    ((7, 7), (1, 4), (11, 11))
    """
    line = height == 1
    side = max(round(share * width) if line else round((share * height * width) ** 0.5), 3 if odd else 1)
    side += odd and side % 2 == 0
    return (1, min(side, width)) if line else (min(side, height), min(side, width))


def windows(picture: tuple[int, int], size: tuple[int, int], places: Tensor) -> Tensor:
    """Flat positions (B, h · w) of one window per example, from two uniform numbers each (B, 2).

    >>> windows((3, 4), (2, 2), torch.tensor([[0.0, 0.99]]))
    tensor([[2, 3, 6, 7]])
    """
    (height, width), (tall, wide) = picture, size
    top = (places[:, 0] * (height - tall + 1)).to(torch.int64).clamp(max=height - tall)
    left = (places[:, 1] * (width - wide + 1)).to(torch.int64).clamp(max=width - wide)
    inner = torch.arange(tall, device=places.device)[:, None] * width
    inner = inner + torch.arange(wide, device=places.device)
    return (top * width + left)[:, None] + inner.reshape(1, -1)


def pyramid(height: int, width: int) -> Tensor:
    """Nested rectangles around the middle, the k-th adding 1 / k²; l2 length 1."""
    middle = height // 2, width // 2
    heap = torch.zeros(height, width, dtype=torch.float64)
    for ring in range(max(middle) + 1):
        top, left = max(middle[0] - ring, 0), max(middle[1] - ring, 0)
        heap[top : middle[0] + ring + 1, left : middle[1] + ring + 1] += 1.0 / (ring + 1) ** 2
    return heap / float(heap.norm())


def pattern(height: int, width: int) -> Tensor:
    """Two pyramids of opposite sign, one above the other (beside it in a single row), (h, w), length 1."""
    if height == 1:
        return pattern(width, 1).T if width > 1 else torch.ones(1, 1, dtype=torch.float64)
    half = height // 2
    both = torch.cat([pyramid(half, width), -pyramid(height - half, width)])
    return both / float(both.norm())


def patterns(size: tuple[int, int], turned: Tensor, signs: Tensor) -> Tensor:
    """One pattern for each example and channel, (B, C, h · w): its sign (B, C), turned (B,) where square."""
    upright = pattern(*size)
    lying = upright.T if size[0] == size[1] else upright
    both = torch.stack([upright.flatten(), lying.flatten()]).to(signs.device, signs.dtype)
    return both[turned.to(torch.int64)][:, None, :] * signs[:, :, None]


def grid(shape: torch.Size | tuple[int, ...]) -> tuple[int, int, int]:
    """Side, rows and columns of the tiles that the first l2 point is made of: about five across.

    >>> grid((1, 3, 32, 32)), grid((1, 20))
    ((6, 5, 5), (4, 1, 5))
    """
    _, height, width = layout(shape)
    side = max((width if height == 1 else min(height, width)) // 5, 1)
    return side, max(height // side, 1), width // side


def tiled(shape: torch.Size | tuple[int, ...], signs: Tensor, turned: Tensor) -> Tensor:
    """The first l2 change, (B, C, H · W): a pattern in each tile; signs (B, C, r, c), turned (B, r, c)."""
    channels, height, width = layout(shape)
    side, rows, columns = grid(shape)
    tall = min(side, height)
    upright = pattern(tall, side)
    lying = upright.T if tall == side else upright
    both = torch.stack([upright, lying]).to(signs.device, signs.dtype)
    cells = both[turned.to(torch.int64)][:, None] * signs[..., None, None]  # (B, C, r, c, h, w)
    change = signs.new_zeros(len(signs), channels, height, width)
    above, before = (height - rows * tall) // 2, (width - columns * side) // 2
    inner = cells.permute(0, 1, 2, 4, 3, 5).reshape(len(signs), channels, rows * tall, columns * side)
    change[:, :, above : above + rows * tall, before : before + columns * side] = inner
    return change.flatten(2)


def rearranged(change: Tensor, here: Tensor, there: Tensor, fresh: Tensor, reach: Tensor) -> Tensor:
    """Put a pattern into one window and give it the length that the other window, reset, gives up.

    Shapes      change (B, C, H · W); here, there (B, n) positions of the two windows; fresh (B, C, n) patterns;
                reach (B,) the whole change's length.
    """
    channels = change.shape[1]
    rows_here, rows_there = (place[:, None, :].expand(-1, channels, -1) for place in (here, there))
    window = change.gather(2, rows_here)
    emptied = change.scatter(2, rows_there, 0.0).scatter(2, rows_here, 0.0)
    whole = change.square().sum(dim=(1, 2))
    # Length of what both windows held together, and what the box's clipping has left unused.
    held = (change.square() - emptied.square()).sum(dim=(1, 2))
    spare = (reach.square() - whole).clamp(min=0.0)
    mixed = fresh + window / (window.norm(dim=2, keepdim=True) + _TINY)
    length = (spare / channels)[:, None] + held[:, None].clamp(min=0.0)
    mixed = mixed / (mixed.norm(dim=2, keepdim=True) + _TINY) * length.sqrt()[:, :, None]
    return emptied.scatter(2, rows_here, mixed)


def turned(change: Tensor, places: Tensor, angle: Tensor, reach: Tensor) -> Tensor:
    """Share out anew what two coordinates hold together, and what the box's clipping has left unused.

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
