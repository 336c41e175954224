"""Operators that move numbers: shapes, slices, parts laid side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trustbound.model.files.onnx_network import Call


def reshape(call: Call, inputs: Tensor, target: Sequence[int]) -> Tensor:
    """Give another shape; a leading 1 of one example is the batch, and so is what its leading axis was merged into."""
    sizes = [
        call.shape[axis] if size == 0 and not call.attribute("allowzero") else size for axis, size in enumerate(target)
    ]
    if -1 in sizes:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = math.prod(call.shape) // rest if rest else 0
    if call.batch == 1:
        return inputs.reshape(sizes)
    if sizes and sizes[0] == 1:
        return inputs.reshape(call.batch, *sizes[1:])
    return inputs.reshape(-1, *sizes[1:])


def flatten(call: Call, inputs: Tensor) -> Tensor:
    """Give two axes: what lies before `axis`, and the rest."""
    axis = call.attribute("axis", 1)
    axis = axis + len(call.shape) if axis < 0 else axis
    if axis == 1 and len(call.shape) > 1:
        return inputs.flatten(1)
    return inputs.reshape(call.batch if axis == 0 else -1, math.prod(call.shape[axis:]))


def transpose(call: Call, inputs: Tensor) -> Tensor:
    """Permute the axes."""
    axes = call.attribute("perm") or tuple(reversed(range(len(call.shape))))
    return inputs.permute(*axes)


def squeeze(call: Call, inputs: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Take axes of size one away; without a list all but the batch's."""
    axes = call.attribute("axes") if axes is None else axes
    if axes is None:
        axes = [axis for axis, size in enumerate(call.shape) if size == 1 and axis > 0]
    for axis in sorted((call.axis(axis) for axis in axes), reverse=True):
        inputs = inputs.squeeze(axis)
    return inputs


def unsqueeze(call: Call, inputs: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Lay axes of size one in."""
    axes = call.attribute("axes") if axes is None else axes
    count = len(call.shape) + len(axes)
    for axis in sorted(axis % count for axis in axes):
        inputs = inputs.unsqueeze(axis)
    return inputs


def expand(call: Call, inputs: Tensor, target: Sequence[int]) -> Tensor:
    """Repeat along axes of size one, without a copy."""
    return inputs.expand(torch.broadcast_shapes(inputs.shape, tuple(target)))


def concat(call: Call, *parts: Any) -> Tensor:
    """Lay parts side by side; a constant stands beside each example."""
    count = max(part.ndim for part in parts)
    axis = call.attribute("axis", 1) % count
    if call.batch > 1 and axis:
        parts = tuple(
            part if part.shape[0] == call.batch else part.expand(call.batch, *part.shape[1:]) for part in parts
        )
    return torch.cat(parts, axis)


def split(call: Call, inputs: Tensor, lengths: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    """Cut into parts of given lengths, or of equal ones."""
    axis = call.axis(call.attribute("axis", 0))
    lengths = call.attribute("split") if lengths is None else lengths
    if lengths is None:
        count, size = call.attribute("num_outputs"), call.shape[axis]
        each = -(-size // count)
        lengths = [min(each, size - each * number) for number in range(count)]
    return torch.split(inputs, list(lengths), axis)


def cut(
    call: Call,
    inputs: Tensor,
    starts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:
    """Take a slice along some axes."""
    starts = call.attribute("starts") if starts is None else starts
    ends = call.attribute("ends") if ends is None else ends
    axes = call.attribute("axes") if axes is None else axes
    axes = range(len(starts)) if axes is None else axes
    for place, axis in enumerate(axes):
        axis = call.axis(axis)
        step = 1 if steps is None else steps[place]
        wanted = range(*slice(_limit(starts[place]), _limit(ends[place]), step).indices(call.shape[axis]))
        if step < 0:
            inputs = inputs.flip(axis)
            last = call.shape[axis] - 1
            wanted = range(last - wanted.start, last - wanted.start + len(wanted) * -step, -step)
        if (wanted.start, wanted.stop, wanted.step) != (0, call.shape[axis], 1):
            index = [slice(None)] * axis + [slice(wanted.start, wanted.start + len(wanted) * wanted.step, wanted.step)]
            inputs = inputs[tuple(index)]
    return inputs


def _limit(end: int) -> int | None:
    """A limit of a slice; the smallest numbers stand for one past the front of a reversed slice."""
    return None if end <= -(2**31) + 1 else end


def gather(call: Call, inputs: Tensor, index: Any) -> Tensor:
    """Pick entries along an axis by constant numbers."""
    axis = call.axis(call.attribute("axis", 0))
    if index.ndim == 0:
        return inputs.select(axis, int(index))
    picked = inputs.index_select(axis, index.flatten())
    return picked if index.ndim == 1 else picked.unflatten(axis, tuple(index.shape))


def pad(
    call: Call,
    inputs: Tensor,
    pads: Sequence[int] | None = None,
    value: Any = None,
    axes: Sequence[int] | None = None,
) -> Tensor:
    """Lay a constant, or what mirrors or repeats the edge, around."""
    pads = call.attribute("pads") if pads is None else pads
    value = call.attribute("value", 0.0) if value is None else float(value)
    axes = range(len(call.shape)) if axes is None else [call.axis(axis) for axis in axes]
    before = dict(zip(axes, pads[: len(axes)], strict=True))
    after = dict(zip(axes, pads[len(axes) :], strict=True))
    sides = [(before.get(axis, 0), after.get(axis, 0)) for axis in range(len(call.shape))]
    while len(sides) > 1 and sides[0] == (0, 0):
        sides.pop(0)
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[
        call.attribute("mode", "constant")
    ]
    given = [size for pair in reversed(sides) for size in pair]
    return F.pad(inputs, given, mode, value) if mode == "constant" else F.pad(inputs, given, mode)


def depth_to_space(call: Call, inputs: Tensor) -> Tensor:
    """Move channels into a plane that is larger by `blocksize`."""
    size = call.attribute("blocksize")
    channels, height, width = call.shape[1:]
    if call.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(inputs, size)
    apart = inputs.reshape(-1, size, size, channels // size**2, height, width)
    return apart.permute(0, 3, 4, 1, 5, 2).reshape(-1, channels // size**2, height * size, width * size)


def tile(call: Call, inputs: Tensor, repeats: Sequence[int]) -> Tensor:
    """Repeat along every axis."""
    return inputs.repeat(*repeats)
