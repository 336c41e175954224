"""Operations that only move numbers: each is run on the numbers' addresses, which tells what it moves where.

So there is no rule for slicing, rolling or writing into a slice that could be wrong, and an operation that moves
anything from one example of the batch to another is seen to do so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustbound.certificates.graph.gathering import Gather
from trustbound.certificates.graph.node_index import Arguments, NodeIndex, depends
from trustbound.certificates.graph.operations import Arrange, Concatenate

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator

#: Arguments that hold numbers to be moved; all others say where to.
_DATA = {"self", "input", "src", "tensors", "values", "value", "other", "source"}


class _Addresses:
    """Addresses of all that one operation may move: row r, entry i is (r + 1) · room + i; constants have no row.

    A value that was itself picked from another has the addresses of what it was picked from.
    """

    def __init__(self, translator: Translator) -> None:
        self.translator = translator
        self.offsets: dict[NodeIndex, int] = {}
        self.total = 0
        self.constants: list[Tensor] = [torch.zeros(1, dtype=torch.float64, device=translator.device)]
        self.room = 2**30

    def of(self, value: Any) -> Any:
        """Return addresses in place of the numbers that `value` holds."""
        if isinstance(value, tuple | list):
            return [self.of(item) for item in value]
        if isinstance(value, NodeIndex):
            return self._of_node(value)
        if isinstance(value, bool | int | float | Tensor):
            # In the precision of the result, as the module stores it.
            stored = torch.as_tensor(value, device=self.translator.device).to(self.translator.dtype).double()
            addresses = self._of_constant(stored)
            return addresses if isinstance(value, Tensor) else float(addresses)
        return value

    def _of_node(self, node: NodeIndex) -> Tensor:
        translator, rows = self.translator, self.translator.rows
        step = translator.operations[node]
        row = torch.arange(1, rows + 1, dtype=torch.float64, device=translator.device) * self.room
        if not isinstance(step, Gather) or step.dtype != translator.dtype:
            entries = torch.arange(math.prod(step.shape), device=translator.device) + self._offset(
                translator.cast(node)
            )
            return (row.unsqueeze(1) + entries).reshape(rows, *step.shape)
        index = step.index.flatten()
        picked = row.unsqueeze(1) + (index + self._offset(NodeIndex(step.sources[0])))
        filled = torch.zeros_like(index, dtype=torch.float64)
        if step.bias is not None:
            filled += self._of_constant(step.bias).flatten()
        return torch.where(index >= 0, picked, filled).reshape(rows, *step.shape)

    def _offset(self, node: NodeIndex) -> int:
        """Return where the entries of a node begin."""
        if node not in self.offsets:
            self.offsets[node] = self.total
            self.total += math.prod(self.translator.extent(node))
        return self.offsets[node]

    def _of_constant(self, numbers: Tensor) -> Tensor:
        """Keep constants, every number once, and return their addresses."""
        start = sum(len(part) for part in self.constants)
        bits, node = torch.unique(numbers.contiguous().view(torch.int64), return_inverse=True)
        self.constants.append(bits.view(torch.float64))
        addresses: Tensor = (node + start).double().reshape(numbers.shape)
        return addresses


def move(translator: Translator, target: Any, given: Arguments) -> Any:
    """Write an operation that moves numbers, as what it does to their addresses."""
    for name, value in given.items():
        if name not in _DATA and depends(value):
            raise translator.refusal(f"`{name}` depends on the input")
    if given.get("accumulate"):
        raise translator.refusal("values added where they are put")
    addresses = _Addresses(translator)
    named = {name: addresses.of(value) if name in _DATA else value for name, value in given.items()}
    positional = [named.pop(argument.name) for argument in target._schema.arguments if not argument.kwarg_only]
    moved = target(*positional, **named)
    if isinstance(moved, tuple | list):
        return [_step(translator, addresses, part) for part in moved]
    return _step(translator, addresses, moved)


def _step(translator: Translator, addresses: _Addresses, moved: Tensor) -> Any:
    """Write moved addresses (rows, *shape) as a step of the list, or as a constant where no place is left."""
    rows, room = translator.rows, addresses.room
    if moved.ndim < 1 or len(moved) != rows:
        raise translator.refusal(f"a value of shape {tuple(moved.shape)} that loses the batch axis")
    row, entry = (moved / room).floor().long(), (moved % room).long()
    shape = tuple(moved.shape[1:])
    own = torch.arange(1, rows + 1, device=moved.device).reshape(-1, *[1] * len(shape))
    constant = row[:1] == 0
    if not bool(((row == own) | (row == 0)).all()) or not bool(((entry == entry[:1]) & ((row == 0) == constant)).all()):
        raise translator.refusal("numbers are moved between the examples of a batch")
    constant, entry = constant[0], entry[0]
    filled = torch.cat(addresses.constants)[entry.where(constant, 0)]
    if bool(constant.all()):
        return filled.expand(rows, *shape).to(translator.dtype)
    index = entry.masked_fill(constant, -1)
    source, offset = _operand(translator, addresses, entry[~constant])
    index = torch.where(constant, -1, index - offset)
    extent = translator.extent(source)
    if index.numel() == math.prod(extent):
        if bool((index.flatten() == torch.arange(index.numel(), device=index.device)).all()):
            return source if extent == shape else translator.add(Arrange, source, shape=shape, extent=extent)
    bias = filled.where(constant, 0.0) if bool((filled * constant != 0).any()) else None
    size = None if bias is None else bias.abs()
    return translator.add(Gather, source, shape=shape, extent=extent, index=index, bias=bias, bias_size=size)


def _operand(translator: Translator, addresses: _Addresses, used: Tensor) -> tuple[NodeIndex, int]:
    """Return the one place that numbers are taken from, all of them laid side by side if several, and its offset."""
    for node, start in addresses.offsets.items():
        end = start + math.prod(translator.extent(node))
        if bool(((used >= start) & (used < end)).all()):
            return node, start
    flat = []
    for node in addresses.offsets:
        extent = translator.extent(node)
        line = (math.prod(extent),)
        flat.append(node if extent == line else translator.add(Arrange, node, shape=line, extent=extent))
    lengths = tuple(translator.extent(node)[0] for node in flat)
    return translator.add(Concatenate, *flat, shape=(sum(lengths),), axis=1, lengths=lengths), 0


MOVES = {
    *("select", "slice", "narrow", "flip", "roll", "expand", "repeat", "tile", "index", "index_select", "gather"),
    *("split", "split_with_sizes", "chunk", "unbind", "diagonal", "unfold", "im2col", "movedim", "stack"),
    *("select_scatter", "slice_scatter", "index_put", "copy", "fill", "masked_fill", "where"),
    *("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "upsample_nearest1d", "upsample_nearest2d"),
}
