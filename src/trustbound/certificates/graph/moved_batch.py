"""Values whose batch axis stands elsewhere for a while, or is laid together with others, as inside of attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from trustbound.certificates.graph.data_movement import move
from trustbound.certificates.graph.matrix_operations import Dense
from trustbound.certificates.graph.node_index import Arguments, MovedBatch, NodeIndex, depends
from trustbound.certificates.graph.normalisation import Softmax
from trustbound.certificates.graph.operations import Arrange, Scale
from trustbound.certificates.graph.products import Product

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator

#: The batch axis among the sizes of axes.
BATCH = 0


def moved(translator: Translator, value: Any) -> MovedBatch:
    """Return any value as one whose axes are told; its batch axis may be the first."""
    if isinstance(value, MovedBatch):
        return value
    return MovedBatch(value, ((BATCH,), *((side,) for side in translator.extent(value))))


def _sides(groups: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the sizes of a step whose axes are those of the groups, one after the other, without the batch's."""
    return tuple(side for group in groups for side in group if side != BATCH)


def _arranged(
    translator: Translator, value: MovedBatch, groups: Sequence[Sequence[int]], axes: list[int] | None = None
) -> MovedBatch:
    """Permute the axes of a step, counted with the batch's as 0, and cut them as groups say."""
    index, extent, shape = value.index, translator.extent(value.index), _sides(groups)
    turned = None if axes is None or axes == sorted(axes) else tuple(axes)
    if turned is not None or extent != shape:
        own = translator.operations[index].dtype
        index = translator.add(Arrange, index, shape=shape, extent=extent, axes=turned, dtype=own)
    return MovedBatch(index, tuple(tuple(group) for group in groups))


def settled(translator: Translator, value: MovedBatch) -> Any:
    """Make each axis without the batch's one of the step; return the step itself where its batch axis is the first."""
    groups = [group if BATCH in group else (math.prod(group),) for group in value.groups]
    found = _arranged(translator, value, groups)
    return found.index if found.groups[0] == (BATCH,) else found


def permuted(translator: Translator, value: Any, order: list[int]) -> Any:
    """Write a permutation of all axes, the batch's among them."""
    value = moved(translator, value)
    places: list[list[int]] = []
    count = 0
    for group in value.groups:
        own = [side for side in group if side != BATCH]
        places.append(list(range(count + 1, count + 1 + len(own))))
        count += len(own)
    axes = [0, *(place for axis in order for place in places[axis])]
    return settled(translator, _arranged(translator, value, [value.groups[axis] for axis in order], axes))


def _permute(translator: Translator, given: Arguments) -> Any:
    count = len(given["self"].groups)
    if "dims" in given:
        return permuted(translator, given["self"], [place % count for place in given["dims"]])
    axes, first, second = list(range(count)), given["dim0"] % count, given["dim1"] % count
    axes[first], axes[second] = axes[second], axes[first]
    return permuted(translator, given["self"], axes)


def reshaped(translator: Translator, value: Any) -> Any:
    """Cut the axes as the current node's value has them: each is made of whole axes, or of a part of one."""
    value = moved(translator, value)
    left = [side for group in value.groups for side in group if side != 1]
    groups: list[tuple[int, ...]] = []
    for side in translator.sizes:
        group: list[int] = []
        rest = side
        while rest > 1:
            whole = translator.rows if left and left[0] == BATCH else (left[0] if left else 0)
            if whole and rest % whole == 0:
                group.append(left.pop(0))
                rest //= whole
            elif left and left[0] != BATCH and whole % rest == 0:
                group.append(rest)
                left[0] = whole // rest
                rest = 1
            else:
                raise translator.refusal("the batch axis is cut, or laid across others")
        groups.append(tuple(group))
    return settled(
        translator, _arranged(translator, value, groups, list(range(len(translator.extent(value.index)) + 1)))
    )


def _reshape(translator: Translator, given: Arguments) -> Any:
    return reshaped(translator, given.get("self", given.get("input")))


def _cut(translator: Translator, given: Arguments) -> Any:
    """Write parts along another axis than the batch's; `select` and `unbind` take that axis away."""
    value = given["self"]
    place = given["dim"] % len(value.groups)
    if BATCH in value.groups[place]:
        raise translator.refusal("parts along the batch")
    axis = 1 + len(_sides(value.groups[:place]))
    found = move(translator, translator.target, {**given, "self": value.index, "dim": axis})

    def part(index: NodeIndex) -> Any:
        groups = list(value.groups)
        extent = translator.extent(index)
        if len(extent) < len(translator.extent(value.index)):
            del groups[place]
        else:
            groups[place] = (extent[axis - 1],)
        return settled(translator, MovedBatch(index, tuple(groups)))

    return [part(index) for index in found] if isinstance(found, list) else part(found)


def _same(translator: Translator, given: Arguments) -> Any:
    return given.get("self", given.get("input"))


def _linear(translator: Translator, given: Arguments) -> Any:
    """Write a matrix over the last axis."""
    value: Any = given.get("input", given.get("mat1"))
    weight: Any = given.get("weight")
    bias: Any = given.get("bias")
    if "mat1" in given:
        if given["alpha"] != 1 or given["beta"] != 1:
            raise translator.refusal("alpha or beta other than 1")
        weight, bias = given["mat2"], given["self"]
        weight = weight if depends(weight) else weight.mT
    if not isinstance(value, MovedBatch) or depends((weight, bias)) or BATCH in value.groups[-1]:
        raise translator.refusal("a product that is not inputs × matrix")
    shift = None if bias is None else bias.double().reshape(-1).expand(len(weight))
    shape = (*translator.extent(value.index)[:-1], len(weight))
    size = None if shift is None else shift.abs()
    index = translator.cast(value.index)
    index = translator.add(Dense, index, shape=shape, weight=weight.double(), bias=shift, bias_size=size)
    return MovedBatch(index, (*value.groups[:-1], (len(weight),)))


def _scale(translator: Translator, given: Arguments) -> Any:
    """Write a factor that is one number."""
    value, factor = given["self"], given["other"]
    if isinstance(factor, MovedBatch):
        value, factor = factor, value
    if depends(factor) or (isinstance(factor, torch.Tensor) and factor.numel() != 1):
        raise translator.refusal("the batch axis is moved")
    scale = translator.constant(factor, ()).reshape(())
    index = translator.cast(value.index)
    shape = translator.extent(index)
    return MovedBatch(translator.add(Scale, index, shape=shape, scale=scale), value.groups)


def _softmax(translator: Translator, given: Arguments) -> Any:
    value = given["self"]
    if given["dim"] % len(value.groups) != len(value.groups) - 1 or BATCH in value.groups[-1]:
        raise translator.refusal("the batch axis is moved")
    index = translator.cast(value.index)
    return MovedBatch(translator.add(Softmax, index, shape=translator.extent(index)), value.groups)


def _matrices(translator: Translator, given: Arguments) -> Any:
    """Write products of matrices, one for each head of each example."""
    first, second = given["self"], given.get("mat2", given.get("other"))
    if not isinstance(first, MovedBatch) or not isinstance(second, MovedBatch):
        raise translator.refusal("the batch axis is moved")
    if first.groups[:-2] != second.groups[:-2] or any(
        BATCH in part.groups[at] for part in (first, second) for at in (-2, -1)
    ):
        raise translator.refusal("the batch axis is moved")
    left, right = translator.cast(first.index), translator.cast(second.index)
    extent, width = translator.extent(left), translator.extent(right)[-1]
    index = translator.add(Product, left, right, matrix=True, inner=extent[-1], shape=(*extent[:-1], width))
    return MovedBatch(index, (*first.groups[:-1], (width,)))


RULES = {
    **dict.fromkeys(("permute", "transpose"), _permute),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("select", "unbind", "split", "split_with_sizes", "chunk", "slice"), _cut),
    **dict.fromkeys(("contiguous", "clone", "alias", "detach"), _same),
    **dict.fromkeys(("linear", "addmm"), _linear),
    "mul": _scale,
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    **dict.fromkeys(("bmm", "matmul"), _matrices),
}
