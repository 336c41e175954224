"""Scaled dot-product attention: products of what depends on the input, with a softmax between them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trustbound.certificates.graph.node_index import Arguments, NodeIndex, depends
from trustbound.certificates.graph.normalisation import Softmax
from trustbound.certificates.graph.operations import Arrange, Scale, Shape
from trustbound.certificates.graph.products import matrix_product

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator


def attention(translator: Translator, given: Arguments) -> NodeIndex:
    """Write softmax(Q Kᵀ / √d) V, each step in the module's precision.

    Kernels that take keys in blocks scale what they have summed so far by exponentials of differences of maxima: those
    roundings are among the softmax's, which is charged for each of its terms.
    """
    if given.get("enable_gqa"):
        raise translator.refusal("attention with fewer heads of keys than of queries")
    if given["dropout_p"] > 0:
        raise translator.refusal("dropout in attention; call model.eval()")
    if translator.device.type != "cpu":
        # Those of other devices may take a number apart into several of a shorter type.
        raise translator.refusal("attention whose kernels may cut their operands; certify a copy on the CPU")
    query, key, value = (given[name] for name in ("query", "key", "value"))
    if not all(isinstance(part, NodeIndex) and depends(part) for part in (query, key, value)):
        raise translator.refusal("attention to constants")
    extent, count = translator.extent(key), len(translator.shape) + 1
    turned = (*extent[:-2], extent[-1], extent[-2])
    axes = (*range(count - 2), count - 1, count - 2)
    key = translator.add(Arrange, translator.cast(key), shape=turned, extent=extent, axes=axes)
    shape = (*translator.extent(query)[:-1], extent[-2])
    scores = matrix_product(translator, query, key, shape)
    scale = given.get("scale")
    factor = 1 / math.sqrt(extent[-1]) if scale is None else float(scale)
    constant = torch.tensor(factor, dtype=torch.float64, device=translator.device)
    added, allowed = _mask(translator, given, shape)
    size = None if added is None else added.abs()
    scores = translator.add(Scale, scores, shape=shape, scale=constant, bias=added, bias_size=size)
    shares = translator.add(Softmax, scores, shape=shape, allowed=allowed)
    return matrix_product(translator, shares, value)


def _mask(translator: Translator, given: Arguments, shape: Shape) -> tuple[Tensor | None, Tensor | None]:
    """Return what a mask adds to the scores (*shape), and which of them it lets in; None for nothing and for all."""
    mask = given["attn_mask"]
    if mask is not None and (isinstance(mask, NodeIndex) or not isinstance(mask, Tensor)):
        raise translator.refusal("attention whose mask depends on the inputs")
    if mask is None:
        if not given["is_causal"]:
            return None, None
        mask = torch.ones(shape[-2:], dtype=torch.bool, device=translator.device).tril()
    while mask.ndim > len(shape) and len(mask) == 1:
        mask = mask.squeeze(0)
    if mask.ndim > len(shape):
        raise translator.refusal("attention whose mask differs by example")
    added = None
    if mask.dtype == torch.bool:
        allowed = mask
    else:
        allowed = mask > -torch.inf
        added = mask.double().masked_fill(~allowed, 0.0)
        if not bool(added.isfinite().all()):
            raise translator.refusal("attention with a mask of NaN or +∞")
        added = added.expand(shape) if bool((added != 0).any()) else None
    allowed = allowed.expand(shape)
    if not bool(allowed.any(-1).all()):
        raise translator.refusal("attention whose mask leaves a query without any key")
    return added, None if bool(allowed.all()) else allowed
