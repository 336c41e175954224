"""What rows of coefficients lose to rounding on their way back, in float64 and in float32.

Every step of the way back is a product of rows and the step, of which Σ|coefficients| · magnitudes that the step sums
is known before; what it rounds is at most γ of that, and is taken off the bound at once. So the bound holds in any
precision whose γ is used, and float32, in which kernels for convolutions are several times faster, loses some 10⁻⁵ of
the magnitudes at a step where float64 loses 10⁻¹³: too much to settle a margin, nothing to the limits of a neuron.
Rows meet the input in float64, constants are added up in float64.

Reference   Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.kernels import operand_roundoff
from trustbound.certificates.graph.matrix_operations import MatrixOperation
from trustbound.certificates.graph.normalisation import Root, Softmax
from trustbound.certificates.graph.operations import Linear, MaxPool, Operation
from trustbound.certificates.graph.products import Product
from trustbound.certificates.methods.interval import Bounds
from trustbound.certificates.slack import growth, underflow

#: Products of one forward from which a way back in float32 pays; numbers of a step up to which its γ is small.
PAYS, WIDEST = 1 << 20, 1 << 21


def pays_in_single(graph: Graph) -> bool:
    """Say whether limits are worth going back for in float32, by kernels whose products are whole.

    Planes of products, shares and roots are kept in float64 alone. It hangs on the network alone: what is proven of an
    example does not depend on the batch around it.
    """
    products = sum(step.features * step.terms for step in graph.operations if isinstance(step, MatrixOperation))
    whole = graph.device.type == "cpu" and operand_roundoff(graph.device) == 0
    planes = any(isinstance(step, Product | Softmax | Root) for step in graph.operations)
    return whole and not planes and products >= PAYS and graph.widest <= WIDEST


def noise(step: Operation, bounds: Bounds, shared: int) -> Tensor:
    """Bound what a unit coefficient of a step loses, (B, channels, 2): to its way back, and to the network's rounding.

    `shared` counts the readers of its operands at most: as many parts are added up there.
    """
    own = growth(step.features + _terms(step) + shared) * _magnitudes(bounds)
    return _by_channel(own, bounds.error)


def single_noise(step: Operation, bounds: Bounds, found: Sequence[Bounds], shared: int) -> Tensor:
    """Return what `noise` does for a way back in float32, (B, channels, 2) float32, rounded upward.

    What a max pool adds to the constant is summed over all of it, other products over a step's terms, biases in
    float64. `found` are the limits of
    the steps before, with which weights too small for float32 are multiplied.
    """
    kind = torch.float32
    whole = growth(step.features, kind)
    own = growth(_terms(step) + shared, kind) * _magnitudes(bounds)
    if isinstance(step, MaxPool):
        own = own + whole * bounds.size
    for source in step.sources:
        most = found[source].size.flatten(1).amax(1).reshape(-1, *[1] * (own.ndim - 1))
        own = own + underflow(_terms(step), kind) * most
    both = _by_channel(own, bounds.error) * (1 + 2 * whole)
    return torch.nextafter(both.to(kind), torch.full((), torch.inf, dtype=kind, device=both.device))


def single_underflow(step: Operation, found: Sequence[Bounds]) -> Tensor:
    """Bound what rows of any size lose at a step to numbers that float32 cannot hold, (B,) float64."""
    kind = torch.float32
    lost = torch.full_like(found[0].size.flatten(1)[:, 0], step.features * underflow(0, kind))
    for source in step.sources:
        lost = lost + underflow(_terms(step), kind) * found[source].size.flatten(1).sum(1)
    return lost


def _terms(step: Operation) -> int:
    return step.terms if isinstance(step, Linear | Product) else 0


def _magnitudes(bounds: Bounds) -> Tensor:
    """Return what a step sums, or holds if that is more, (B, *F)."""
    return bounds.size if bounds.summed is None else torch.maximum(bounds.summed, bounds.size)


def _by_channel(own: Tensor, error: Tensor | None) -> Tensor:
    """Return the largest of each channel of two losses (B, *F), (B, channels, 2)."""
    parts = [part if part.ndim == 2 else part.flatten(2).amax(2) for part in (own, error) if part is not None]
    return torch.stack(parts if len(parts) == 2 else [parts[0], torch.zeros_like(parts[0])], 2)
