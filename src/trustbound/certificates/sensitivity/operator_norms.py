"""How far linear steps can carry a vector, in l2, l1 and l∞: operator norms, never below the truth."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustbound.certificates.graph.gathering import Gather
from trustbound.certificates.graph.matrix_operations import Convolution, Dense, Mean
from trustbound.certificates.graph.operations import Arrange, Linear, LogSoftmax, Scale, Shape
from trustbound.certificates.graph.transposed_convolution import TransposedConvolution
from trustbound.certificates.slack import growth, vanished

NORMS = ("l2", "l1", "linf")

# Singular values of an n × n matrix come out within a small multiple of n u of the largest.
_OUTWARD = 1e-9

#: Sides of matrices up to which all eigenvalues are computed.
_SMALL = 96

#: Convolutions whose matrix has at most so many rows or columns are built: no border is added.
_BUILT = 256
#: Entries that the matrix of such a convolution may have at most.
_ENTRIES = 2**21


def dense_norm(weight: Tensor) -> float:
    """Return the spectral norm of a matrix, rounded outward.

    The largest eigenvalue of the smaller Gram matrix is as accurate as the largest singular value, and costs a
    fraction of it.

    >>> round(dense_norm(torch.tensor([[3.0, 0.0], [0.0, 4.0]])), 6)
    4.0
    """
    if not bool(weight.isfinite().all()):
        return math.inf
    wide = weight.double()
    size = float(wide.abs().max()) if wide.numel() else 0.0
    if not size:
        return 0.0
    scaled = wide / size  # so that no square overflows or vanishes
    gram = scaled @ scaled.T if len(scaled) <= scaled.shape[1] else scaled.T @ scaled
    # What the products round is at most γ times the trace.
    largest = largest_eigenvalue(gram.unsqueeze(0)) + growth(sum(wide.shape)) * float(gram.trace())
    return math.sqrt(max(largest, 0.0)) * size * (1 + _OUTWARD) + vanished(weight.numel())


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
    # Weights are real: a frequency and its opposite have conjugate blocks, and half of the first axis tells all.
    blocks = split.permute(*coarse, 0, 1, *aliases)[: torus[0] // step.stride[0] // 2 + 1]
    blocks = blocks.flatten(0, len(coarse) - 1).flatten(2)
    blocks = blocks.unflatten(1, (step.groups, -1)) / math.sqrt(math.prod(step.stride))
    if blocks.shape[2] > blocks.shape[3]:
        blocks = blocks.mT
    largest = max(largest_eigenvalue((part @ part.mH).flatten(0, 1)) for part in blocks.split(32))
    return math.sqrt(max(largest, 0.0)) * (1 + _OUTWARD) + vanished(step.weight.numel())


def largest_eigenvalue(grams: Tensor) -> float:
    """Bound the largest eigenvalue of matrices (N, n, n) that are nowhere negative, from above.

    Small ones are decomposed. Of larger ones Lanczos steps estimate it, from below; that none is above the estimate is
    proven by a Cholesky factor of what is left to a number just above it, at a fraction of the cost.

    Reference   Rump, Verification of positive definiteness, 2006, for what a factor that exists proves.

    >>> matrix = torch.diag(torch.arange(1.0, 301.0, dtype=torch.float64))
    >>> round(largest_eigenvalue(matrix.unsqueeze(0)), 4)
    300.0
    """
    side = grams.shape[-1]
    if side > _SMALL:
        bound = max(_estimate(one) for one in grams) * (1 + 1e-8)
        left = bound * torch.eye(side, dtype=grams.dtype, device=grams.device) - grams
        _, failed = torch.linalg.cholesky_ex(left)
        proven = bound * (1 + growth(2 * side) * side)
        if bound > 0 and not bool(failed.any()):
            return proven
        grams = grams[failed > 0] if bound > 0 else grams
        return max(proven, float(torch.linalg.eigvalsh(grams)[..., -1].max()))
    return float(torch.linalg.eigvalsh(grams)[..., -1].max())


def _estimate(gram: Tensor) -> float:
    """The largest eigenvalue of a matrix (n, n) as Lanczos steps find it, 0 where they find none."""
    from scipy.sparse.linalg import ArpackError, eigsh

    start = np.random.default_rng(0).standard_normal(len(gram))
    try:
        return max(0.0, float(eigsh(gram.cpu().numpy(), 1, v0=start, tol=1e-9)[0][0]))
    except ArpackError:  # of a matrix of zeros, or out of steps
        return 0.0


def operator_norm(step: Linear, extent: Shape, norm: str = "l2") -> float | None:
    """Return an upper bound of how far a linear step carries its operand of features `extent`, in a norm.

    In l∞ that is the largest row sum of absolute weights, in l1 the largest column sum, both exact but for rounding. In
    l2 it is exact for matrices, factors and means, and for convolutions whose matrix is small enough to be built;
    that of others is bounded from above on a torus, never estimated by power iteration. None for steps with several
    operands.

    >>> step = Scale(sources=(0,), shape=(2,), scale=torch.tensor([1.0, -3.0]).double())
    >>> round(operator_norm(step, (2,)), 6), round(operator_norm(step, (2,), "l1"), 6)
    (3.0, 3.0)
    """
    if len(step.sources) > 1:
        return None
    if norm != "l2":
        return _absolute_norm(step, extent, norm)
    if isinstance(step, Dense):
        return dense_norm(step.weight)
    if isinstance(step, Convolution | TransposedConvolution):
        small = min(step.features, math.prod(extent)) <= _BUILT and step.features * math.prod(extent) <= _ENTRIES
        if small:
            return dense_norm(_matrix(step, extent))
        return convolution_norm(step.adjoint() if isinstance(step, TransposedConvolution) else step)
    if isinstance(step, Scale):
        return float(step.scale.abs().max()) * (1 + _OUTWARD)
    if isinstance(step, Gather):
        return math.sqrt(step.repeats) * (1 + _OUTWARD)
    if isinstance(step, Mean):
        return math.sqrt(1 / step.terms) * (1 + _OUTWARD)
    if isinstance(step, Arrange | LogSoftmax):
        return 1.0
    # Of any other map: the spectral norm is at most the root of the two.
    return math.sqrt(_absolute_norm(step, extent, "l1") * _absolute_norm(step, extent, "linf")) * (1 + _OUTWARD)


def _matrix(step: Convolution | TransposedConvolution, extent: Shape) -> Tensor:
    """Build the matrix of a convolution, or its transpose, whichever takes fewer rows."""
    weight = step.weight
    if math.prod(extent) <= step.features:
        eye = torch.eye(math.prod(extent), dtype=weight.dtype, device=weight.device).unflatten(1, extent)
        return replace(step, bias=None).apply(eye).flatten(1)
    eye = torch.eye(step.features, dtype=weight.dtype, device=weight.device).unflatten(1, step.shape)
    return step.transpose(eye)[0].flatten(1)


def _absolute_norm(step: Linear, extent: Shape, norm: str) -> float:
    """Return the largest row sum (l∞) or column sum (l1) of the absolute weights."""
    device = next((part.device for part in vars(step).values() if isinstance(part, Tensor)), torch.device("cpu"))
    ones = torch.ones(1, *extent, dtype=torch.float64, device=device)
    if norm == "linf":
        sums = step.absolute(ones)
    else:
        (sums,) = absolute_transpose(step, [extent], torch.ones(1, *step.shape, dtype=torch.float64, device=device))
    largest = float(sums.max()) * (1 + growth(step.terms))
    return largest if largest == largest else math.inf


def absolute_transpose(step: Linear, extents: list[Shape], sizes: Tensor) -> tuple[Tensor, ...]:
    """Apply the transpose of the map with absolute weights to sizes (N, *shape): one part for each operand.

    >>> step = Scale(sources=(0,), shape=(2,), scale=torch.tensor([1.0, -3.0]).double())
    >>> absolute_transpose(step, [(2,)], torch.ones(1, 2).double())
    (tensor([[1., 3.]], dtype=torch.float64),)
    """
    with torch.enable_grad():
        operands = [sizes.new_zeros(len(sizes), *extent, requires_grad=True) for extent in extents]
        outputs = step.absolute(*operands)
        return torch.autograd.grad(outputs, operands, sizes.detach(), materialize_grads=True)
