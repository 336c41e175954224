"""Square windows of pictures, and the l2 and l1 patterns that the Square attack puts into them.

Everything here works on the flat view (B, channels, height · width); inputs (B, F) are one row of F columns.
Where `power` is asked for, it is 2 for l2 and 1 for l1.
Reference   Andriushchenko et al., Square Attack, 2020 (1912.00049), Algorithm 3 and its published code; Croce and Hein,
            Mind the box: l1-APGD for sparse adversarial attacks on image classifiers, 2021 (2103.01208), for l1.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


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


def pyramid(height: int, width: int, power: int = 2) -> Tensor:
    """Nested rectangles around the middle, the k-th adding 1 / k² (l2) or 1 / k⁴ (l1); length 1 in that norm."""
    middle = height // 2, width // 2
    heap = torch.zeros(height, width, dtype=torch.float64)
    for ring in range(max(middle) + 1):
        top, left = max(middle[0] - ring, 0), max(middle[1] - ring, 0)
        heap[top : middle[0] + ring + 1, left : middle[1] + ring + 1] += 1.0 / (ring + 1) ** (4 // power)
    return heap / float(heap.norm(p=power))


@functools.lru_cache(maxsize=256)
def pattern(height: int, width: int, power: int = 2) -> Tensor:
    """Two pyramids of opposite sign, one above the other (beside it in a single row), (h, w), length 1."""
    if height == 1:
        return pattern(width, 1, power).T if width > 1 else torch.ones(1, 1, dtype=torch.float64)
    half = height // 2
    both = torch.cat([pyramid(half, width, power), -pyramid(height - half, width, power)])
    return both / float(both.norm(p=power))


def patterns(size: tuple[int, int], turned: Tensor, signs: Tensor, power: int = 2) -> Tensor:
    """One pattern for each example and channel, (B, C, h · w): its sign (B, C), turned (B,) where square."""
    upright = pattern(*size, power)
    lying = upright.T if size[0] == size[1] else upright
    both = torch.stack([upright.flatten(), lying.flatten()]).to(signs.device, signs.dtype)
    return both[turned.to(torch.int64)][:, None, :] * signs[:, :, None]


def grid(shape: torch.Size | tuple[int, ...]) -> tuple[int, int, int]:
    """Side, rows and columns of the tiles that the first l2 or l1 point is made of: about five across.

    >>> grid((1, 3, 32, 32)), grid((1, 20))
    ((6, 5, 5), (4, 1, 5))
    """
    _, height, width = layout(shape)
    side = max((width if height == 1 else min(height, width)) // 5, 1)
    return side, max(height // side, 1), width // side


def tiled(shape: torch.Size | tuple[int, ...], signs: Tensor, turned: Tensor, power: int = 2) -> Tensor:
    """The first l2 or l1 change, (B, C, H · W): a pattern in each tile; signs (B, C, r, c), turned (B, r, c)."""
    channels, height, width = layout(shape)
    side, rows, columns = grid(shape)
    tall = min(side, height)
    upright = pattern(tall, side, power)
    lying = upright.T if tall == side else upright
    both = torch.stack([upright, lying]).to(signs.device, signs.dtype)
    cells = both[turned.to(torch.int64)][:, None] * signs[..., None, None]  # (B, C, r, c, h, w)
    change = signs.new_zeros(len(signs), channels, height, width)
    above, before = (height - rows * tall) // 2, (width - columns * side) // 2
    inner = cells.permute(0, 1, 2, 4, 3, 5).reshape(len(signs), channels, rows * tall, columns * side)
    change[:, :, above : above + rows * tall, before : before + columns * side] = inner
    return change.flatten(2)
