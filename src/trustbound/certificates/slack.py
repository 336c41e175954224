"""What floating point may add, and why a proof survives it.

Two kinds of rounding stand between a bound and the network that somebody runs.

*The bound's own.* Bounds are computed in float64, the limits of neurons on the way back in float32 where that pays
(`methods/backward_rounding.py`). A sum of n products, in any order and with or without fused
multiply–add, is off by at most γ_n Σ|a||x| with γ_n = n u / (1 − n u), u = 2⁻⁵³ or 2⁻²⁴ (Higham, Accuracy and Stability
of Numerical Algorithms, 2002, section 3.1). Every step adds such a term, outward, before the next one uses it.
Batch norm and constant factors are folded in float64, and their roundings are counted with the products they enter.

*The network's.* The module computes every step in a precision of its own, float32 say. Its values are those of the
exact network with a disturbance δ_k added after each step, and |δ_k| ≤ γ_n (|W_k||x_k| + |b_k|) + n η by the same
formula, with that precision's u, the largest |x_k| over the region, and η for products that underflow. So bounds
are computed for the *family* of networks that such disturbances make: limits contain them, and the backward pass
takes |A_k| δ_k off at every step it crosses. Multiplying errors forward through |W| instead would lose, layer by
layer, what the signs of the weights cancel.

Where a number may exceed the range of its type, or n u reaches 1/2 (bfloat16 from 112 summands), nothing is known:
the disturbance is infinite and the example is not certified.

The formula holds for plain, pairwise and blocked summation in the step's own precision or a wider one. It does not
cover kernels that transform their operands: `check_kernels` refuses Winograd and FFT convolutions, and products
whose operands are cut to TF32 or bfloat16 first are charged for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.graph.gathering import Cast, Gather
from trustbound.certificates.graph.kernels import operand_roundoff
from trustbound.certificates.graph.matrix_operations import Convolution, Dense
from trustbound.certificates.graph.normalisation import Root, Softmax
from trustbound.certificates.graph.operations import (
    Activation,
    Arrange,
    Concatenate,
    Linear,
    LogSoftmax,
    Operation,
    Scale,
    Sum,
)
from trustbound.certificates.graph.products import Product
from trustbound.certificates.graph.transposed_convolution import TransposedConvolution

#: Roundings beside the sum itself: a bias, folded constants, batch norm, the subtraction of limits.
_BESIDE = 16


def growth(terms: int, dtype: torch.dtype = torch.float64) -> float:
    """Return γ for a sum of `terms` products, with room for folded constants and the subtraction of limits.

    >>> growth(1) < 1e-14, growth(1000, torch.float32) < 1.3e-4, growth(1000, torch.bfloat16)
    (True, True, inf)
    """
    roundings = (terms + _BESIDE) * torch.finfo(dtype).eps / 2
    return roundings / (1 - roundings) if roundings < 0.5 else math.inf


def underflow(terms: int, dtype: torch.dtype) -> float:
    """Bound what `terms` products may lose below the smallest numbers of a type.

    Float32, bfloat16 and float64 are taken to flush subnormal numbers to zero, as some devices and modes do;
    float16 is not: no kernel flushes it.

    >>> underflow(1, torch.float32) < 1e-36
    True
    """
    kind = torch.finfo(dtype)
    return (terms + _BESIDE) * (kind.smallest_normal * kind.eps if dtype == torch.float16 else kind.smallest_normal)


def vanished(terms: int) -> float:
    """Bound what the root of a sum of `terms` squares in float64 loses where the squares underflow.

    >>> numbers = torch.full((4,), 1e-170, dtype=torch.float64)
    >>> float(torch.linalg.vector_norm(numbers)) < 2e-170 <= float(torch.linalg.vector_norm(numbers)) + vanished(4)
    True
    """
    return math.sqrt(terms * torch.finfo(torch.float64).smallest_normal)


def disturbance(step: Operation, sizes: Sequence[Tensor], most: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Return the magnitudes that a step sums, (B, *F), and how far its computed values are from exact ones.

    `sizes` holds the largest magnitudes (B, *F) of each operand as it is computed, `most` the largest values of the
    step itself where its rounding is relative to them. The second part is None where the step rounds nothing, and
    infinite or NaN where nothing is known.

    Reference   Higham, Accuracy and Stability of Numerical Algorithms, 2002, equation 3.5.

    >>> from trustbound.certificates.graph.operations import Scale
    >>> third = Scale(sources=(0,), shape=(1,), scale=torch.tensor([1 / 3]), dtype=torch.float32)
    >>> summed, error = disturbance(third, [torch.tensor([[3.0]])])
    >>> round(float(summed), 6), 1e-6 < float(error) < 2e-6
    (1.0, True)
    """
    if not isinstance(step, Linear):
        if isinstance(step, Smooth):
            return _smooth(step, sizes[0])
        if isinstance(step, Product):
            return _product(step, sizes)
        if isinstance(step, Softmax | Root):
            return _relative(step, sizes[0], most)
        summed = sizes[0] if sizes[0].shape[1:] == step.shape else step.apply(sizes[0])
        if isinstance(step, Activation) and step.slope and step.dtype is not None:
            slope = torch.full_like(summed, step.slope)
            own = step.slope * growth(1, step.dtype) * summed + underflow(1, step.dtype)
            return summed, own + _coarse(slope, summed, step.dtype)
        return summed, None
    error: Tensor | None = None
    given = list(sizes)
    # What was folded into one step still rounds, underflows and overflows in parts.
    for part in step.parts or (step,):
        summed = part.summed(*given)
        if part.dtype is not None and not _exact(part):
            own = _factor(part, summed.device) * summed + underflow(part.terms, part.dtype)
            for factor, size in _factors(part, given):
                own = own + _coarse(factor, size, part.dtype)
            error = own if error is None else part.absolute(error) + own
            beyond = (summed + error) * part.peak >= torch.finfo(part.dtype).max
            error = error.masked_fill(beyond, math.inf)
        given = [summed]
    return summed, error


def _smooth(step: Smooth, size: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return what `disturbance` does, for a smooth activation: lines through it are as steep as it is at most."""
    curve = step.curve
    summed = 1 + 2 * curve.steepness * size
    if step.dtype is None:
        return summed, torch.full_like(size, curve.jump) if curve.jump else None
    return summed, curve.roundoff(size, step.dtype)


def _product(step: Product, sizes: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return what `disturbance` does, for a product: its planes add three parts and what they are moved by."""
    reached = step.apply(*sizes)
    if step.dtype is None:
        return 4 * reached, None
    factor = growth(step.terms, step.dtype)
    if step.dtype == torch.float32 and step.matrix:
        cut = operand_roundoff(reached.device, False)
        factor += cut * (2 + cut) * (1 + factor)
    peaks = sizes[0].flatten(1).amax(1) + sizes[1].flatten(1).amax(1)
    lost = underflow(step.terms, step.dtype) * (1 + peaks).reshape(-1, *[1] * len(step.shape))
    error = factor * reached + lost
    return 4 * reached, error.masked_fill((reached + error) * step.peak >= torch.finfo(step.dtype).max, math.inf)


def _relative(step: Softmax | Root, size: Tensor, most: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return what `disturbance` does, for steps whose kernels are off by shares of their results."""
    if isinstance(step, Softmax):
        most = torch.ones_like(size) if most is None else most
        summed = (1 + 4 * size.amax(-1, keepdim=True)).expand_as(size)
    else:
        most = torch.full_like(size, step.least**-0.5) if most is None else most
        summed = 8 * most
    if step.dtype is None:
        return summed, None
    kind = torch.finfo(step.dtype)
    share = step.relative(step.dtype) if isinstance(step, Softmax) else 16 * kind.eps
    error = share * most + 16 * kind.smallest_normal
    return summed, error.masked_fill((size >= kind.max / 8) | (most >= kind.max / 8), math.inf)


def _exact(step: Linear) -> bool:
    """Say whether a step moves numbers, or stores them in a precision that holds each of them."""
    return step.exact if isinstance(step, Cast) else isinstance(step, Arrange | Concatenate | Gather)


def _factors(step: Linear, sizes: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the constant factors of a step that come from numbers, not stored in its type, and what they multiply."""
    if isinstance(step, Scale):
        return [(step.scale.abs(), sizes[0])]
    if isinstance(step, Sum):
        return [(torch.full_like(size, abs(sign)), size) for sign, size in zip(step.signs, sizes, strict=True)]
    return []


def _coarse(factor: Tensor, size: Tensor, dtype: torch.dtype) -> Tensor:
    """Bound what a product loses because the type holds its factor, or its divisor, coarsely: as 0, or as ∞."""
    least = torch.finfo(dtype).smallest_normal
    lost = torch.where((factor > 0) & (factor < least), least * size, 0.0)
    return torch.where(factor <= 1 / least, lost, math.inf)


def _factor(step: Linear, device: torch.device) -> float:
    """Return what a step's sum may be off by, for magnitudes that sum to 1."""
    assert step.dtype is not None
    if isinstance(step, Cast):  # one rounding, of the number itself
        return torch.finfo(step.dtype).eps / 2
    if isinstance(step, LogSoftmax):  # no sum of products: the few roundings that the logits do not share
        return step.terms * torch.finfo(step.dtype).eps
    factor = growth(step.terms, step.dtype)
    if step.dtype == torch.float32 and isinstance(step, Dense | Convolution | TransposedConvolution):
        cut = operand_roundoff(device, not isinstance(step, Dense))
        factor += cut * (2 + cut) * (1 + factor)
    return factor


def split(error: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return a disturbance with what is unknown set to 0, and the examples (B,) where something was."""
    if error is None:
        return None, None
    known = error.isfinite()
    if bool(known.all()):
        return error, None
    return error.where(known, 0.0), ~known.flatten(1).all(1)
