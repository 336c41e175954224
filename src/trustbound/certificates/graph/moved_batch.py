"""Values whose batch axis stands elsewhere for a while, as that of queries, keys and values cut from one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustbound.certificates.graph.data_movement import move
from trustbound.certificates.graph.node_index import Arguments, MovedBatch
from trustbound.certificates.graph.operations import Arrange

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator


def permuted(translator: Translator, value: Any, axes: list[int]) -> Any:
    """Write a permutation of all axes, the batch's among them, of a value whose batch axis stands anywhere."""
    index, axis = (value.index, value.axis) if isinstance(value, MovedBatch) else (value, 0)
    extent = translator.extent(index)
    # Of the module's axes to those of the step, which has the batch's first.
    order = [0, *(place if place > axis else place + 1 for place in axes if place != axis)]
    shape = tuple(extent[place - 1] for place in order[1:])
    own = translator.operations[index].dtype
    if order != sorted(order):
        index = translator.add(Arrange, index, shape=shape, extent=extent, axes=tuple(order), dtype=own)
    place = axes.index(axis)
    return MovedBatch(index, place) if place else index


def _permute(translator: Translator, given: Arguments) -> Any:
    count = len(translator.extent(given["self"].index)) + 1
    if "dims" in given:
        return permuted(translator, given["self"], [place % count for place in given["dims"]])
    axes, first, second = list(range(count)), given["dim0"] % count, given["dim1"] % count
    axes[first], axes[second] = axes[second], axes[first]
    return permuted(translator, given["self"], axes)


def _cut(translator: Translator, given: Arguments) -> Any:
    """Write parts along another axis than the batch's; `select` and `unbind` take that axis away."""
    index, axis = given["self"].index, given["self"].axis
    name = "dim" if "dim" in given else "axis"
    count = len(translator.extent(index)) + 1
    place = given[name] % count
    if place == axis:
        raise translator.refusal("parts along the batch")
    found = move(translator, translator.target, {**given, "self": index, name: place if place > axis else place + 1})
    lost = translator.target._schema.name.rsplit("::", 1)[-1] in ("select", "unbind") and place < axis
    where = axis - lost
    if isinstance(found, list):
        return [MovedBatch(part, where) if where else part for part in found]
    return MovedBatch(found, where) if where else found


def _same(translator: Translator, given: Arguments) -> Any:
    return given.get("self", given.get("input"))


RULES = {
    **dict.fromkeys(("permute", "transpose"), _permute),
    **dict.fromkeys(("select", "unbind", "split", "split_with_sizes", "chunk", "slice"), _cut),
    **dict.fromkeys(("contiguous", "clone", "alias", "detach"), _same),
}
