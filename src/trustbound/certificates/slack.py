"""What floating point may add, and why a proof survives it.

Two kinds of rounding stand between a bound and the network that somebody runs.

*The bound's own.* Bounds are computed in float64. A sum of n products, in any order and with or without fused
multiply–add, is off by at most γ_n Σ|a||x| with γ_n = n u / (1 − n u), u = 2⁻⁵³ (Higham, Accuracy and Stability
of Numerical Algorithms, 2002, section 3.1). Every step adds such a term, outward, before the next one uses it.
So a returned bound holds for the network in exact arithmetic with the weights that were read; batch norm and
constant factors are folded in float64, and their roundings are counted with the products they enter.

*The network's.* The module runs in its own precision, float32 say, and may be off by as much as its layers
amplify. `rounding` bounds that by the same formula with the unit roundoff of that precision, layer by layer,
over the whole region. A point counts as certified only if its margin is larger. The formula holds for plain and
blocked summation; it does not cover Winograd or FFT convolutions, nor reduced-precision modes such as TF32.
Underflow is neglected.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trustbound.certificates.graph.listing import Graph
from trustbound.certificates.graph.operations import Input, Linear, MaxPool


def growth(terms: int, dtype: torch.dtype = torch.float64) -> float:
    """Return γ for a sum of `terms` products, with room for folded constants and the subtraction of limits.

    >>> growth(1) < 1e-14, growth(1000, torch.float32) < 1.3e-4
    (True, True)
    """
    roundings = (terms + 16) * torch.finfo(dtype).eps / 2
    return roundings / (1 - roundings) if roundings < 0.5 else float("inf")


def rounding(graph: Graph, sizes: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Bound how far each logit computed in the precision `dtype` is from the exact one, (B, C).

    `sizes` holds, for every step of the list, the largest magnitudes (B, *F) over the region. Errors arrive
    multiplied by absolute weights and each step adds γ times the magnitudes it sums.

    Reference   Higham, Accuracy and Stability of Numerical Algorithms, 2002, equation 3.5.
    """
    errors: list[Tensor] = []
    for step in graph.operations:
        if isinstance(step, Input):
            errors.append(torch.zeros_like(sizes[0]))
            continue
        carried = [errors[source] for source in step.sources]
        if isinstance(step, Linear):
            factor = growth(step.terms, dtype)
            summed = [
                error + factor * (sizes[source] + error) for source, error in zip(step.sources, carried, strict=True)
            ]
            error = step.absolute(*summed)
            errors.append(error if step.bias_size is None else error + factor * step.bias_size)
        elif isinstance(step, MaxPool):
            errors.append(step.apply(carried[0]))
        else:
            errors.append(carried[0] * (1 + growth(0, dtype)) + growth(0, dtype) * sizes[step.sources[0]])
    return errors[-1]
