"""Rows of coefficients that live in a small window: what one neuron of a convolution can see.

Going backward from a single position of a feature map, the coefficients stay inside its receptive field. The
window of the neuron at position p starts at p · stride − padding in each axis, with the same stride and padding
for all neurons of a map; only its coefficients are stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.matrix_operations import Convolution
from trustbound.certificates.graph.operations import Activation, Scale, Shape, Sum

Pair = tuple[int, int]


def span(graph: Graph, start: int) -> int:
    """Return how many numbers rows hold at most on their way back from one position of step `start`.

    >>> from trustbound.certificates.graph import read
    >>> graph = read(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten()), torch.rand(1, 1, 9, 9))
    >>> span(graph, 1), span(graph, 2)
    (9, 98)
    """
    key = f"span-{start}"
    if not isinstance(found := graph.cache.get(key), int):
        found = graph.cache[key] = _span(graph, start)
    return found


def _span(graph: Graph, start: int) -> int:
    whole = len(graph.operations[start].shape) != 3
    sides: dict[int, tuple[int, ...] | None] = {start: None if whole else (1, 1)}
    most = 1
    for index in range(start, -1, -1):
        if index not in sides:
            continue
        step, side = graph.operations[index], sides[index]
        held = step.features if side is None else min(step.features, step.shape[0] * math.prod(side))
        most = max(most, held)
        if side is not None and isinstance(step, Convolution) and step.groups == 1:
            kernel = zip(side, step.stride, step.dilation, step.weight.shape[2:], strict=True)
            side = tuple((length - 1) * s + d * (k - 1) + 1 for length, s, d, k in kernel)
        elif not isinstance(step, Activation | Smooth | Scale | Sum):
            side = None
        for source in step.sources:
            other = sides.get(source, side)
            joined = None if side is None or other is None else tuple(map(max, side, other))
            sides[source] = joined
    return most


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """Where the windows of G neurons at `positions` (G, 2) lie in a map."""

    positions: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)

    def select(self, neurons: Tensor) -> Window:
        """Return the windows of some of the neurons."""
        return replace(self, positions=self.positions[neurons])

    def through(self, step: Convolution) -> Window:
        """Return the windows over a convolution's operand for windows over its output."""
        (s0, s1), (p0, p1) = self.stride, self.padding
        (t0, t1), (q0, q1) = step.stride, step.padding
        return replace(self, stride=(s0 * t0, s1 * t1), padding=(p0 * t0 + q0, p1 * t1 + q1))

    def gather(self, values: Tensor, owner: Tensor, size: Shape) -> Tensor:
        """Cut maps (B, C, H, W) into windows (G, C, *size), zero outside the map; G neurons of B owners.

        >>> window = Window(positions=torch.tensor([[0, 0]]), padding=(1, 1))
        >>> window.gather(torch.ones(1, 1, 3, 3), torch.tensor([0]), (2, 2))
        tensor([[[[0., 0.],
                  [0., 1.]]]])
        """
        last = self.positions.amax(0).tolist()
        missing = [
            max(at * s + k - p - side, 0)
            for at, s, k, p, side in zip(last, self.stride, size, self.padding, values.shape[2:], strict=True)
        ]
        first = int(owner.min())
        owner, values = owner - first, values[first : int(owner.max()) + 1]
        padded = F.pad(values, (self.padding[1], missing[1], self.padding[0], missing[0]))
        cut = padded.unfold(2, size[0], self.stride[0]).unfold(3, size[1], self.stride[1])
        return cut.permute(0, 2, 3, 1, 4, 5)[owner, self.positions[:, 0], self.positions[:, 1]]

    def inside(self, extent: Shape, size: Shape) -> Tensor | None:
        """Return (G, 1, 1, *size) that is False outside a map of `extent`, None where all lies inside."""
        flags = []
        for axis in (0, 1):
            first = self.positions[:, axis] * self.stride[axis] - self.padding[axis]
            at = first.unsqueeze(1) + torch.arange(size[axis], device=first.device)
            flags.append((at >= 0) & (at < extent[axis]))
        if bool(flags[0].all()) and bool(flags[1].all()):
            return None
        return (flags[0].unsqueeze(2) & flags[1].unsqueeze(1)).unsqueeze(1).unsqueeze(1)

    def scatter(self, coefficients: Tensor, extent: Shape) -> Tensor:
        """Lay windows (G, K, C, *size) into maps of zeros (G, K, C, *extent)."""
        size, last = coefficients.shape[3:], self.positions.amax(0).tolist()
        height, width = (
            max(at * s + k, p + side)
            for at, s, k, p, side in zip(last, self.stride, size, self.padding, extent, strict=True)
        )
        rows = (self.positions[:, 0] * self.stride[0]).unsqueeze(1) + torch.arange(
            size[0], device=self.positions.device
        )
        columns = (self.positions[:, 1] * self.stride[1]).unsqueeze(1) + torch.arange(
            size[1], device=self.positions.device
        )
        index = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).flatten(1)
        flat = coefficients.flatten(3)
        whole = flat.new_zeros(*flat.shape[:3], height * width)
        whole.scatter_(3, index[:, None, None].expand_as(flat), flat)
        top, left = self.padding
        whole = whole.unflatten(3, (height, width))
        cut: Tensor = whole[..., top : top + extent[0], left : left + extent[1]]
        return cut

    def align(self, own: Tensor, other: Window, others: Tensor) -> tuple[Window, Tensor, Tensor]:
        """Widen two windows of the same neurons and stride until they coincide."""
        padding = (max(self.padding[0], other.padding[0]), max(self.padding[1], other.padding[1]))
        starts = [[padding[axis] - window.padding[axis] for axis in (0, 1)] for window in (self, other)]
        sizes = [
            max(start[axis] + part.shape[3 + axis] for start, part in zip(starts, (own, others), strict=True))
            for axis in (0, 1)
        ]
        wide = []
        for start, part in zip(starts, (own, others), strict=True):
            ends = [sizes[axis] - start[axis] - part.shape[3 + axis] for axis in (0, 1)]
            wide.append(F.pad(part, (start[1], ends[1], start[0], ends[0])))
        return replace(self, padding=padding), wide[0], wide[1]
