"""Bilinear resizing of feature maps: a matrix over each of their two axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustbound.certificates.graph.matrix_operations import Dense
from trustbound.certificates.graph.node_index import Arguments, NodeIndex
from trustbound.certificates.graph.operations import Arrange

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator


def upsample_bilinear(translator: Translator, given: Arguments) -> NodeIndex:
    """Write rows · X · columnsᵀ with the weights that the kernel uses, which are asked of the kernel itself.

    Weights that float32 rounds are refused: what the kernel computes them from is charged nowhere.
    """
    index: Any = translator.cast(given["input"])
    extent = translator.extent(index)
    if len(extent) != 3:
        raise translator.refusal(f"resizing of values of shape {extent} by example")
    scales = given.get("scale_factors") or (given.get("scales_h"), given.get("scales_w"))
    for axis in (1, 0):
        before, after = extent[2], translator.shape[1 + axis]
        scale = None if scales is None else scales[axis]
        if before != after or scale not in (None, 1.0):
            weight = _weights(translator, before, after, scale, bool(given["align_corners"]))
            shape = (*extent[:2], after)
            index, extent = translator.add(Dense, index, shape=shape, weight=weight, bias=None), shape
        turned = (extent[0], extent[2], extent[1])
        index = translator.add(Arrange, index, shape=turned, extent=extent, axes=(0, 1, 3, 2))
        extent = turned
    return index  # type: ignore[no-any-return]


def _weights(translator: Translator, before: int, after: int, scale: float | None, corners: bool) -> Tensor:
    """The matrix (after, before) that resizes one axis, float64."""

    def asked(dtype: torch.dtype) -> Tensor:
        lines = torch.eye(before, dtype=dtype).reshape(1, before, 1, before)
        one = (None, None) if scale is None else (1.0, float(scale))
        found: Tensor = torch.ops.aten.upsample_bilinear2d.default(lines, [1, after], corners, *one)
        return found.reshape(before, after).T.double()

    weight = asked(torch.float64)
    if not torch.equal(weight, asked(torch.float32)):
        raise translator.refusal(f"bilinear resizing from {before} to {after}, whose weights float32 rounds")
    return weight.to(translator.device)
