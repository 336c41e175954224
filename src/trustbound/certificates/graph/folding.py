"""Merge factors and shifts into the linear step before them, as batch norm into its convolution.

A merged step costs one pass instead of two, and its norm is that of the product, not the product of norms.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor

from trustbound.certificates.graph.gathering import Cast
from trustbound.certificates.graph.matrix_operations import Convolution, Dense
from trustbound.certificates.graph.operations import Linear, Operation, Scale


def fold(operations: list[Operation]) -> tuple[Operation, ...]:
    """Return the list with every `Scale` merged into a `Dense`, `Convolution` or `Scale` that only it reads.

    >>> from trustbound.certificates.graph.operations import Input
    >>> double = Scale(sources=(0,), shape=(1,), scale=torch.tensor(2.0))
    >>> steps = fold([Input(sources=(), shape=(1,)), double, Scale(sources=(1,), shape=(1,), scale=double.scale)])
    >>> len(steps), steps[-1].scale
    (2, tensor(4.))
    """
    readers = Counter(source for step in operations for source in step.sources)
    kept: list[Operation] = []
    indices: dict[int, int] = {}
    for index, step in enumerate(operations):
        moved = replace(step, sources=tuple(indices[source] for source in step.sources))
        if (
            isinstance(step, Scale)
            and isinstance(moved, Scale)
            and not isinstance(step, Cast)
            and readers[step.sources[0]] == 1
        ):
            merged = _merge(kept[moved.sources[0]], moved)
            if merged is not None:
                kept[moved.sources[0]] = merged
                indices[index] = moved.sources[0]
                continue
        indices[index] = len(kept)
        kept.append(moved)
    return tuple(kept)


def _merge(before: Operation, scale: Scale) -> Linear | None:
    """Return `scale` after `before` as one step, or None where the two do not fit."""
    if not isinstance(before, Scale | Dense | Convolution) or isinstance(before, Cast) or before.dtype != scale.dtype:
        return None
    parts = (before.parts or (before,)) + (scale.parts or (scale,))
    merged = _merged(before, scale)
    return None if merged is None else replace(merged, parts=parts)


def _merged(before: Scale | Dense | Convolution, scale: Scale) -> Linear | None:
    """Return the weights of the two as those of one step."""
    parts = [scale.scale] if scale.bias is None else [scale.scale, scale.bias]
    if isinstance(before, Convolution):
        spatial = len(before.shape) - 1
        if any(part.numel() > 1 and part.shape[1 - len(before.shape) :].numel() > 1 for part in parts):
            return None
        if any(part.numel() > 1 and part.ndim != spatial + 1 for part in parts):
            return None
        factor = scale.scale.expand(before.shape[0], *[1] * spatial)
        weight = before.weight * factor.unsqueeze(1)
        bias, size = _shift(before, scale, factor)
        return replace(before, weight=weight, bias=bias, bias_size=size)
    if isinstance(before, Dense):
        if any(part.numel() > 1 and part.numel() != part.shape[-1] for part in parts):
            return None
        factor = scale.scale.reshape(-1).expand(before.shape[-1])
        bias, size = _shift(before, scale, factor)
        flat = [None if part is None else part.reshape(-1).expand(before.shape[-1]) for part in (bias, size)]
        return replace(before, weight=before.weight * factor.unsqueeze(1), bias=flat[0], bias_size=flat[1])
    bias, size = _shift(before, scale, scale.scale)
    return replace(before, scale=before.scale * scale.scale, bias=bias, bias_size=size)


def _shift(before: Linear, scale: Scale, factor: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the merged bias and the magnitudes it was summed from, before any cancellation."""
    if before.bias is None or before.bias_size is None:
        if scale.bias is None or scale.bias_size is None or not isinstance(before, Convolution):
            return scale.bias, scale.bias_size
        like = torch.zeros_like(factor)
        return scale.bias + like, scale.bias_size + like
    bias, size = before.bias * factor, before.bias_size * factor.abs()
    if scale.bias is not None and scale.bias_size is not None:
        bias, size = bias + scale.bias, size + scale.bias_size
    return bias, size
