"""Largest singular values of linear steps, never below the truth."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from trustbound.certificates.graph.gathering import Gather
from trustbound.certificates.graph.matrix_operations import Convolution, Dense, Mean
from trustbound.certificates.graph.operations import Linear, Scale
from trustbound.certificates.slack import vanished

# Singular values of an n × n matrix come out within a small multiple of n u of the largest.
_OUTWARD = 1e-9


def dense_norm(weight: Tensor) -> float:
    """Return the spectral norm of a matrix, rounded outward.

    >>> round(dense_norm(torch.tensor([[3.0, 0.0], [0.0, 4.0]])), 6)
    4.0
    """
    if not bool(weight.isfinite().all()):
        return math.inf
    return float(torch.linalg.matrix_norm(weight.double(), 2)) * (1 + _OUTWARD) + vanished(weight.numel())


def convolution_norm(step: Convolution) -> float:
    """Bound the spectral norm of a zero-padded, strided convolution from above.

    The operand is laid into a torus large enough that nothing wraps around, a multiple of the stride in each
    axis. There the convolution without stride is diagonal under the Fourier transform, and keeping every s-th
    output folds s frequencies (s² in a plane) into one: the norm is that of the largest block
    [K(f), K(f + N/s), …] / √s. Laying in and cutting out only shrink, so the torus bounds the plane.

    Reference   Sedghi, Gupta and Long, The Singular Values of Convolutional Layers, 2019, arXiv:1805.10408,
                theorem 6, extended to strides by folding aliased frequencies.

    >>> from trustbound.certificates.graph.matrix_operations import Convolution
    >>> mean = Convolution(sources=(0,), shape=(1, 4), extent=(1, 8), stride=(2,), padding=(0,), dilation=(1,),
    ...                    groups=1, weight=torch.full((1, 1, 2), 0.5, dtype=torch.float64))
    >>> round(convolution_norm(mean) ** 2, 6)
    0.5
    """
    if not bool(step.weight.isfinite().all()):
        return math.inf
    kernel = step.weight.shape[2:]
    axes = list(range(2, step.weight.ndim))
    # Neither may the kernel meet the operand from the other side, nor two outputs fall on one place.
    torus = [
        s * math.ceil(max(side + p, side + 2 * p - d * (k - 1), d * (k - 1) + 1) / s)
        for side, p, d, k, s in zip(step.extent[1:], step.padding, step.dilation, kernel, step.stride, strict=True)
    ]
    wide = [d * (k - 1) + 1 for d, k in zip(step.dilation, kernel, strict=True)]
    spaced = step.weight.new_zeros(*step.weight.shape[:2], *wide)
    every: tuple[Any, ...] = (..., *(slice(None, None, d) for d in step.dilation))
    spaced[every] = step.weight
    spectrum = torch.fft.fftn(spaced, s=torus, dim=axes)
    # Split every frequency axis into (alias, coarse frequency); aliases stand beside the input channels.
    split = spectrum.reshape(
        *step.weight.shape[:2],
        *(n for side, s in zip(torus, step.stride, strict=True) for n in (s, side // s)),
    )
    aliases, coarse = list(range(2, split.ndim, 2)), list(range(3, split.ndim, 2))
    blocks = split.permute(*coarse, 0, 1, *aliases).flatten(0, len(coarse) - 1).flatten(2)
    blocks = blocks.unflatten(1, (step.groups, -1)) / math.sqrt(math.prod(step.stride))
    if blocks.shape[2] > blocks.shape[3]:
        blocks = blocks.mT
    # The largest eigenvalue of the smaller Gram matrix is as accurate as the largest singular value.
    largest = max(float(torch.linalg.eigvalsh(part @ part.mH)[..., -1].max()) for part in blocks.split(32))
    return math.sqrt(max(largest, 0.0)) * (1 + _OUTWARD) + vanished(step.weight.numel())


def step_norm(step: Linear) -> float | None:
    """Return an upper bound of a linear step's gain in l2, None for steps with several operands.

    >>> step_norm(Scale(sources=(0,), shape=(2,), scale=torch.tensor([1.0, -3.0])))
    3.0000000030...
    """
    if len(step.sources) > 1:
        return None
    if isinstance(step, Dense):
        return dense_norm(step.weight)
    if isinstance(step, Convolution):
        return convolution_norm(step)
    if isinstance(step, Scale):
        return float(step.scale.abs().max()) * (1 + _OUTWARD)
    if isinstance(step, Gather):
        return math.sqrt(step.repeats) * (1 + _OUTWARD)
    return math.sqrt(1 / step.terms) * (1 + _OUTWARD) if isinstance(step, Mean) else 1.0
