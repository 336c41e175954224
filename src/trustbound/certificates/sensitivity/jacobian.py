"""How fast rows over the logits can change inside a region: intervals of their gradients, by one way back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.operations import Activation, Input, Linear, MaxPool, Operation
from trustbound.certificates.methods.interval import Bounds
from trustbound.certificates.methods.relaxations import pool_windows
from trustbound.certificates.region import Region
from trustbound.certificates.region.ball import BallRegion
from trustbound.certificates.sensitivity.gains import gains
from trustbound.certificates.sensitivity.operator_norms import absolute_transpose
from trustbound.certificates.slack import growth, vanished
from trustbound.errors import UnsupportedError

#: Exponents of the dual norms.
_DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


@dataclass(frozen=True, kw_only=True, eq=False)
class JacobianBounds:
    """Limits of the gradients of K rows over a region, and how fast each row can change there.

    Shapes      low, high (B, K, *F); slope (B, K), in the region's norm; joint (B,), of all rows together: how far
                their vector can move in that norm for each unit that the input moves.
    """

    low: Tensor
    high: Tensor
    slope: Tensor
    joint: Tensor

    def fall(self, region: Region) -> Tensor:
        """Bound how far each row can fall below its value at the region's inputs, (B, K).

        By the mean value theorem f(x') − f(x) = ⟨g, x' − x⟩ with g between the limits of the gradient.
        """
        ahead = (region.high - region.inputs).flatten(1).unsqueeze(1)
        behind = (region.inputs - region.low).flatten(1).unsqueeze(1)
        low, high = self.low.flatten(2), self.high.flatten(2)
        each = torch.maximum(torch.maximum(-low * ahead, high * behind), torch.zeros_like(low))
        corner = each.nan_to_num(math.inf).sum(2) * (1 + growth(low.shape[2]))
        if not isinstance(region, BallRegion):
            return corner
        return torch.fmin(corner, self.slope * region.radius.unsqueeze(1) * (1 + growth(1)))


def jacobian_bounds(graph: Graph, region: Region, found: Sequence[Bounds], specification: Tensor) -> JacobianBounds:
    """Bound the gradients of rows (B, K, C) over a region, from the limits of every step.

    On the way back intervals of coefficients pass each step: matrices take their middle and their width apart, an
    activation multiplies by the interval of its derivative between its operand's limits, a max pool hands each
    coefficient, or none of it, to every input of its window that can win. Wherever the way has one step in front of
    it, what the coefficients are there times how fast that step can change at most, by norms, bounds the slope too; so
    the slope is never above row differences times the product of the layers before.

    Reference   Weng, Zhang, Chen, Song, Hsieh, Boning, Dhillon and Daniel, Towards Fast Computation of Certified
                Robustness for ReLU Networks, 2018, arXiv:1804.09699, section 3.4 (Fast-Lip); Zhang, Zhang and Hsieh,
                RecurJac, 2019, arXiv:1810.11783.
    Deviations  one interval for each gradient entry (RecurJac's recursion is not followed); products of norms take
                over in front of any step.

    >>> from trustbound.certificates.graph import read
    >>> from trustbound.certificates.methods.interval import interval_bounds
    >>> network = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    >>> network[0].weight.data, network[0].bias.data = torch.tensor([[1.0], [1.0]]), torch.tensor([1.0, -0.5])
    >>> network[2].weight.data = torch.tensor([[2.0, 3.0]])
    >>> graph = read(network, torch.rand(2, 1))
    >>> region = Region.around(torch.tensor([[0.25]]), (0.0, 1.0), "linf", 0.5)
    >>> rows = torch.ones(1, 1, 1, dtype=torch.float64)
    >>> found = jacobian_bounds(graph, region, interval_bounds(graph, region), rows)
    >>> round(float(found.low), 6), round(float(found.high), 6), round(float(found.slope), 6)
    (2.0, 5.0, 5.0)
    """
    rates = gains(graph, region.norm)
    waiting: dict[int, tuple[Tensor, Tensor]] = {graph.head: (specification, torch.zeros_like(specification))}
    slope = torch.full(specification.shape[:2], math.inf, dtype=torch.float64, device=specification.device)
    joint = slope[:, :1].squeeze(1).clone() if slope.shape[1] else slope.new_zeros(len(slope))
    for index in range(graph.head, -1, -1):
        if index not in waiting:
            continue
        step = graph.operations[index]
        middle, width = waiting[index]
        if len(waiting) == 1:
            sizes = (middle.abs() + width).flatten(2) * (1 + growth(2))
            slope = torch.fmin(slope, _length(sizes, region.norm) * rates[index] * (1 + growth(2)))
            apart = _together(middle.flatten(2), region.norm) + _together(width.flatten(2), region.norm)
            joint = torch.fmin(joint, torch.fmin(_together(sizes, region.norm), apart) * rates[index] * (1 + growth(4)))
        del waiting[index]
        if isinstance(step, Input):
            return JacobianBounds(low=middle - width, high=middle + width, slope=slope, joint=joint)
        shapes = [graph.operations[source].shape for source in step.sources]
        parts = _back(step, middle, width, [found[source] for source in step.sources], shapes)
        for source, part in zip(step.sources, parts, strict=True):
            before = waiting.get(source)
            waiting[source] = part if before is None else _widened(before[0] + part[0], before[1] + part[1], 2)
    nothing = specification.new_zeros(*specification.shape[:2], *graph.shape)
    return JacobianBounds(low=nothing, high=nothing, slope=slope * 0, joint=joint * 0)


def _length(sizes: Tensor, norm: str) -> Tensor:
    """The dual norm of each row of sizes (B, K, F): (B, K)."""
    found: Tensor = torch.linalg.vector_norm(sizes, _DUAL[norm], 2)
    return found * (1 + growth(sizes.shape[2])) + vanished(sizes.shape[2])


def _together(rows: Tensor, norm: str) -> Tensor:
    """Bound the operator norms of matrices (B, K, F): (B,). Of nowhere negative ones also of those that are smaller."""
    count = sum(rows.shape[1:])
    if norm != "l2":
        sums: Tensor = torch.linalg.vector_norm(rows, 1, 2 if norm == "linf" else 1)
        return sums.amax(1) * (1 + growth(count))
    small = rows @ rows.mT if rows.shape[1] <= rows.shape[2] else rows.mT @ rows
    known = small.isfinite().flatten(1).all(1)
    small = small.where(known.reshape(-1, 1, 1), 0.0)
    traces = small.diagonal(dim1=1, dim2=2).sum(1)
    largest = torch.linalg.eigvalsh(small)[:, -1].clamp(min=0) + growth(2 * count) * traces
    found: Tensor = largest.sqrt() * (1 + 1e-9) + vanished(count)
    return found.masked_fill(~known, math.inf)


def _widened(middle: Tensor, width: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """An interval with what was rounded on the way to it."""
    return middle, (width + growth(terms) * (middle.abs() + width)) * (1 + growth(terms))


def _back(
    step: Operation, middle: Tensor, width: Tensor, operands: Sequence[Bounds], shapes: list[tuple[int, ...]]
) -> list[tuple[Tensor, Tensor]]:
    """The coefficients of a step's operands, as middle and width."""
    if isinstance(step, Linear):
        groups = middle.shape[:2]
        flat = middle.flatten(0, 1)
        middles = step.transpose(flat)
        rounded = growth(step.terms)
        sizes = width.flatten(0, 1) + rounded * flat.abs()
        widths = absolute_transpose(step, shapes, sizes)
        return [
            (one.unflatten(0, groups), other.unflatten(0, groups) * (1 + rounded))
            for one, other in zip(middles, widths, strict=True)
        ]
    if isinstance(step, MaxPool):
        return [_through_max_pool(step, middle, width, operands[0])]
    low, high = _derivative(step, operands[0])
    ends = [end * side.unsqueeze(1) for end in (middle - width, middle + width) for side in (low, high)]
    least, most = torch.stack(ends).amin(0), torch.stack(ends).amax(0)
    return [_widened((least + most) / 2, (most - least) / 2, 4)]


def _derivative(step: Operation, operand: Bounds) -> tuple[Tensor, Tensor]:
    """Limits (B, *F) of an activation's derivative between its operand's limits."""
    low, high = operand.low, operand.high
    if isinstance(step, Activation):
        least = torch.where(low >= 0, torch.ones_like(low), step.slope)
        most = torch.where(high <= 0, torch.full_like(low, step.slope), 1.0)
        unknown = low.isnan() | high.isnan()
        return least.masked_fill(unknown, min(0.0, step.slope)), most.masked_fill(unknown, max(1.0, step.slope))
    if not isinstance(step, Smooth):
        raise UnsupportedError(f"no Jacobian: {step.where}; use the bounds of whole layers")
    steep = step.curve.steepness
    with torch.enable_grad():
        centre = ((low + high) / 2).detach().nan_to_num(0.0).requires_grad_()
        (there,) = torch.autograd.grad(step.apply(centre).sum(), centre)
    # The derivative itself changes by no more than the bend. Its kernel rounds a little, and beyond a softplus's
    # threshold it is off by what is left of the slope there: at most β times the jump, and the bend is β / 4.
    reach = step.curve.bend * ((high - low) / 2 + 4 * step.curve.jump) + 1e-9 * (1 + steep)
    reach = reach.nan_to_num(math.inf)
    floor = -steep if step.curve.falls else 0.0
    return (there - reach).clamp(min=floor), (there + reach).clamp(max=steep)


def _through_max_pool(step: MaxPool, middle: Tensor, width: Tensor, operand: Bounds) -> tuple[Tensor, Tensor]:
    """Hand each coefficient, or none of it, to every input of its window that can be the largest."""
    values, places = pool_windows(step, operand.high)
    # What is nowhere above the largest lower limit never wins; where one is left, it always does.
    wins = (places >= 0) & ~(values < step.apply(operand.low).unsqueeze(2))
    sure = (wins.sum(2) == 1).unsqueeze(1)
    low, high = middle - width, middle + width
    given = torch.where(sure, low, low.clamp(max=0)), torch.where(sure, high, high.clamp(min=0))
    plane = operand.low.shape[2:]
    totals = []
    for part in given:
        total = part.new_zeros(*part.shape[:3], math.prod(plane))
        for offset in range(places.shape[2]):
            kept = (part * wins[:, :, offset].unsqueeze(1)).flatten(3)
            at = places[:, :, offset].clamp(min=0).long().unsqueeze(1).flatten(3).expand_as(kept)
            total.scatter_add_(3, at, kept)
        totals.append(total.unflatten(3, plane))
    return _widened((totals[0] + totals[1]) / 2, (totals[1] - totals[0]) / 2, 2 * step.overlap + 2)
