"""Backward propagation of linear bounds, from a step to the input; relaxations replace what is not linear."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.matrix_operations import Convolution
from trustbound.certificates.graph.operations import Activation, Input, Linear, MaxPool, Operation, Scale, Sum
from trustbound.certificates.graph.products import Product
from trustbound.certificates.methods.bilinear import BilinearRelaxation, through_product
from trustbound.certificates.methods.interval import Bounds
from trustbound.certificates.methods.relaxations import LinearRelaxation, MaxPoolRelaxation
from trustbound.certificates.methods.relaxed_network import Relaxation, RelaxedNetwork
from trustbound.certificates.methods.share_lines import ShareRelaxation, through_softmax
from trustbound.certificates.methods.windows import Window
from trustbound.certificates.region import Region
from trustbound.certificates.slack import growth
from trustbound.certificates.specification import LowerBound


@dataclass(frozen=True, kw_only=True, eq=False)
class Coefficients:
    """K rows of coefficients for each of G groups; group g belongs to example `owner[g]`.

    Shapes      coefficients (G, K, *F), or (G, K, C, *window) with a window; owner (G,).
    """

    owner: Tensor
    coefficients: Tensor
    window: Window | None = None

    def select(self, groups: Tensor) -> Coefficients:
        """Return the rows of some groups."""
        window = None if self.window is None else self.window.select(groups)
        return Coefficients(owner=self.owner[groups], coefficients=self.coefficients[groups], window=window)

    def single(self) -> Coefficients:
        """Return the same in float32."""
        return replace(self, coefficients=self.coefficients.float())

    def whole(self, shape: tuple[int, ...]) -> Coefficients:
        """Return the rows over a whole step of features `shape`."""
        if self.window is None:
            return self
        return Coefficients(owner=self.owner, coefficients=self.window.scatter(self.coefficients, shape[1:]))

    def settle(self, shape: tuple[int, ...]) -> Coefficients:
        """Return windows as whole maps once they are no smaller."""
        sides = self.coefficients.shape[3:]
        large = all(side >= full for side, full in zip(sides, shape[1:], strict=False))
        return self.whole(shape) if self.window is not None and large else self

    def local(self, values: Tensor) -> Tensor:
        """Return what a step holds for each group's example, where the rows live: (G, 1, *F or window)."""
        if self.window is None:
            return values[self.owner].unsqueeze(1)
        return self.window.gather(values, self.owner, tuple(self.coefficients.shape[3:])).unsqueeze(1)

    def weigh(self, sizes: Tensor) -> Tensor:
        """Bound Σ |coefficient| · size for sizes (B, channels or features, M) of each example: (G, K, M)."""
        rows = self.coefficients
        if self.window is not None:  # small and many: a product with ones is the fastest sum
            weights = (rows.flatten(3).abs() @ rows.new_ones(math.prod(rows.shape[3:]), 1)).squeeze(3)
        else:
            weights = rows.abs() if rows.ndim == 3 else torch.linalg.vector_norm(rows.flatten(3), 1, 3)
        return torch.bmm(weights, sizes[self.owner])

    def add(self, other: Coefficients | None, shape: tuple[int, ...]) -> Coefficients:
        """Return the sum of two sets of rows over one step of features `shape`."""
        if other is None:
            return self
        if self.window is not None and other.window is not None:
            if self.window.stride == other.window.stride:
                window, own, others = self.window.align(self.coefficients, other.window, other.coefficients)
                return replace(self, coefficients=own + others, window=window)
        own, others = self.whole(shape).coefficients, other.whole(shape).coefficients
        return Coefficients(owner=self.owner, coefficients=own + others)


@dataclass(frozen=True, kw_only=True, eq=False)
class Frontier:
    """A way back that was halted: the rows that wait at earlier steps, and what was summed up behind them.

    Shapes      waiting, of each step that is read, (G, K, *F); total, terms, taken (G, K) float64: the constant, the
                magnitudes that it was summed from, and what the network's own rounding takes off.
    """

    waiting: dict[int, Coefficients]
    total: Tensor
    terms: Tensor
    taken: Tensor

    def less(self, number: float) -> Frontier:
        """Return the way back of the rows less a number."""
        return replace(self, total=self.total - number, terms=self.terms + abs(number))

    def weighted(self, weights: Tensor) -> Frontier:
        """Return one row of each group (G, 1) times each of its weights ≥ 0, (G, R)."""
        waiting: dict[int, Coefficients] = {}
        for index, rows in self.waiting.items():
            wide = weights.reshape(*weights.shape, *[1] * (rows.coefficients.ndim - 2))
            waiting[index] = replace(rows, coefficients=rows.coefficients * wide.to(rows.coefficients.dtype))
        total, terms, taken = (part * weights for part in (self.total, self.terms, self.taken))
        return Frontier(waiting=waiting, total=total, terms=terms, taken=taken)

    def beside(self, other: Frontier, graph: Graph, found: Sequence[Bounds]) -> Frontier:
        """Return the sums of the rows of two, of which the other's may have been weighted.

        What weights and sums round is taken off by the limits `found` of the steps at which rows wait; without any
        the result is one to search with, not to believe.
        """
        total, waiting = self.total + other.total, dict(self.waiting)
        for index, rows in other.waiting.items():
            waiting[index] = rows.add(waiting.get(index), graph.operations[index].shape)
            for part in (rows, self.waiting.get(index)) if found else ():
                if part is not None:
                    size = found[index].size.flatten(1)[part.owner].unsqueeze(2)
                    whole = part.whole(graph.operations[index].shape).coefficients.flatten(2).abs()
                    total = total - growth(0) * torch.bmm(whole, size).squeeze(2)
        return Frontier(waiting=waiting, total=total, terms=self.terms + other.terms, taken=self.taken + other.taken)


def halted(
    network: RelaxedNetwork,
    start: int,
    stop: int,
    rows: Coefficients,
    *,
    slopes: Mapping[int, Tensor] | None = None,
    multipliers: Mapping[int, Tensor] | None = None,
) -> Frontier:
    """Go back from step `start` until rows wait at step `stop` and before it alone; see `propagate_backward`."""
    return _descend(network, _begun(start, rows), start, stop + 1, slopes, multipliers, None)


def propagate_backward(
    network: RelaxedNetwork,
    start: int,
    rows: Coefficients,
    *,
    slopes: Mapping[int, Tensor] | None = None,
    multipliers: Mapping[int, Tensor] | None = None,
    met: dict[int, Coefficients] | None = None,
) -> LowerBound:
    """Bound ⟨row, values of step `start`⟩ from below over the region: (G, K).

    Parameters
        slopes      for an activation, lower slopes of each row's own in place of its relaxation's: shaped as the rows
                    are there, between the activation's slope and 1 where it is unstable, as its relaxation elsewhere.
        multipliers for an activation, what is added to the rows over its operand: a number ≥ 0 times −1 where the
                    operand is known to be ≥ 0, times 1 where it is known to be ≤ 0, and 0 elsewhere. The bound then
                    holds where all of that is so.
        met         is filled with the rows as they come to the input and to every activation, smooth ones included.
    """
    return resumed(network, start, _begun(start, rows), slopes=slopes, multipliers=multipliers, met=met)


def resumed(
    network: RelaxedNetwork,
    start: int,
    way: Frontier,
    *,
    slopes: Mapping[int, Tensor] | None = None,
    multipliers: Mapping[int, Tensor] | None = None,
    met: dict[int, Coefficients] | None = None,
) -> LowerBound:
    """Go on with a way back whose rows wait at step `start` and before it; see `propagate_backward`."""
    owner, graph = next(iter(way.waiting.values())).owner, network.graph
    way = _descend(network, way, start, 0, slopes, multipliers, met)
    total = way.total - growth(len(graph.operations)) * way.terms
    if network.vanished:
        total = total - network.vanished[start][owner].unsqueeze(1)
        # Where float32 overflowed, nothing is known.
        total = total.where((total - way.taken).isfinite(), -torch.inf)
    return LowerBound(value=total, run=total - way.taken * (1 + growth(graph.widest + len(graph.operations))))


def _begun(start: int, rows: Coefficients) -> Frontier:
    """Return rows that wait where they start."""
    nothing = torch.zeros(rows.coefficients.shape[:2], dtype=torch.float64, device=rows.owner.device)
    return Frontier(waiting={start: rows}, total=nothing, terms=nothing, taken=nothing)


def _descend(
    network: RelaxedNetwork,
    way: Frontier,
    first: int,
    last: int,
    slopes: Mapping[int, Tensor] | None,
    multipliers: Mapping[int, Tensor] | None,
    met: dict[int, Coefficients] | None,
) -> Frontier:
    """Go back through the steps from `first` to `last`."""
    waiting, total, terms, taken, graph = dict(way.waiting), way.total, way.terms, way.taken, network.graph
    for index in range(first, last - 1, -1):
        if index not in waiting:
            continue
        step, here = graph.operations[index], waiting.pop(index)
        here = here.settle(step.shape)
        if met is not None and isinstance(step, Input | Activation | Smooth):
            met[index] = here
        noise = network.noises[index]
        if noise is not None:
            loss = here.weigh(noise)
            total, taken = total - loss[..., 0], taken + loss[..., 1]
        if isinstance(step, Input):
            part = _concretise(network.region, here)
            total, terms = total + part, terms + part.abs()
            continue
        relaxation, chosen = network.relaxations.get(index), None if slopes is None else slopes.get(index)
        constant, below = _back(step, here, relaxation, chosen, graph)
        if multipliers is not None and index in multipliers:
            below = [replace(part, coefficients=part.coefficients + multipliers[index]) for part in below]
        if constant is not None:
            total, terms = total + constant, terms + constant.abs()
        for source, back in zip(step.sources, below, strict=True):
            waiting[source] = back.add(waiting.get(source), graph.operations[source].shape)
    return Frontier(waiting=waiting, total=total, terms=terms, taken=taken)


def _concretise(region: Region, rows: Coefficients) -> Tensor:
    """Bound rows over the input from below, in the precision of the region: (G, K)."""
    rows = replace(rows, coefficients=rows.coefficients.to(region.inputs.dtype))
    if rows.window is None:
        return region.select(rows.owner).least(rows.coefficients)
    window, size = rows.window, tuple(rows.coefficients.shape[3:])
    return region.seen(rows.owner, lambda part: window.gather(part, rows.owner, size)).least(rows.coefficients)


def _back(
    step: Operation,
    rows: Coefficients,
    relaxation: Relaxation | None,
    slopes: Tensor | None,
    graph: Graph,
) -> tuple[Tensor | None, list[Coefficients]]:
    """Return the constant (G, K) that a step adds, and the rows over each of its operands."""
    if isinstance(relaxation, LinearRelaxation):
        return _through_relaxation(rows, relaxation, slopes)
    if isinstance(step, Product) and isinstance(relaxation, BilinearRelaxation):
        return through_product(step, rows.whole(step.shape), relaxation)
    if isinstance(relaxation, ShareRelaxation):
        return through_softmax(rows.whole(step.shape), relaxation)
    if isinstance(step, MaxPool) and isinstance(relaxation, MaxPoolRelaxation):
        return _through_max_pool(rows.whole(step.shape), relaxation, graph.operations[step.sources[0]].shape)
    if not isinstance(step, Linear):
        raise TypeError(f"no backward rule for {type(step).__name__}")
    if rows.window is not None and not _local(step):
        rows = rows.whole(step.shape)
    groups, count = rows.coefficients.shape[:2]
    flat = rows.coefficients.flatten(0, 1)
    part = step.offset(flat)
    part = None if part is None else part.unflatten(0, (groups, count))
    if rows.window is not None and isinstance(step, Convolution):
        return part, [_through_window(step, rows, rows.window)]
    below = step.transpose(flat)
    return part, [replace(rows, coefficients=back.unflatten(0, (groups, count))) for back in below]


def _local(step: Linear) -> bool:
    """Say whether windows survive a step: convolutions in two dimensions, and factors per channel."""
    if isinstance(step, Convolution):
        return step.groups == 1 and step.weight.ndim == 4
    if isinstance(step, Scale):
        constants = [step.scale] if step.bias is None else [step.scale, step.bias]
        return len(step.shape) == 3 and all(
            (part.ndim < 2 and part.numel() == 1) or (part.ndim >= 2 and part.shape[-2:] == (1, 1))
            for part in constants
        )
    return isinstance(step, Sum)


def _through_window(step: Convolution, rows: Coefficients, window: Window) -> Coefficients:
    """Return windows over a convolution's operand, zero where they hang over its edge."""
    groups, count = rows.coefficients.shape[:2]
    if rows.coefficients.shape[3:] == (1, 1):
        spread = rows.coefficients.flatten(2) @ step.weight.flatten(1)
        spread = spread.reshape(groups, count, *step.weight.shape[1:])
        if step.dilation != (1, 1):
            wide = [d * (k - 1) + 1 for d, k in zip(step.dilation, step.weight.shape[2:], strict=True)]
            whole = spread.new_zeros(*spread.shape[:3], *wide)
            whole[..., :: step.dilation[0], :: step.dilation[1]] = spread
            spread = whole
    else:
        flat = rows.coefficients.flatten(0, 1)
        spread = step.spread(flat).unflatten(0, (groups, count))
    below = window.through(step)
    inside = below.inside(step.extent[1:], tuple(spread.shape[3:]))
    spread = spread if inside is None else spread * inside
    return Coefficients(owner=rows.owner, coefficients=spread, window=below)


def _through_relaxation(
    rows: Coefficients, relaxation: LinearRelaxation, slopes: Tensor | None
) -> tuple[Tensor, list[Coefficients]]:
    """Take the line below where a coefficient is positive, the line above where it is negative."""
    above = rows.local(relaxation.above)
    below = rows.local(relaxation.below) if slopes is None else slopes
    negative = rows.coefficients.clamp(max=0)
    shift = rows.local(relaxation.shift).flatten(2).transpose(1, 2)
    constant = torch.bmm(negative.flatten(2), shift).squeeze(2)
    if relaxation.floor is None:
        constant = constant * (1 + growth(shift.shape[1], constant.dtype))
    else:
        floor, error = rows.local(relaxation.floor).flatten(2).transpose(1, 2), growth(2 * shift.shape[1], shift.dtype)
        positive = (rows.coefficients - negative).flatten(2)
        sizes = torch.bmm(positive, floor.abs()) - torch.bmm(negative.flatten(2), shift.abs())
        constant = constant + torch.bmm(positive, floor).squeeze(2) - error * sizes.squeeze(2)
    coefficients = torch.addcmul(rows.coefficients * below, negative, above - below)
    return constant, [replace(rows, coefficients=coefficients)]


def _through_max_pool(
    rows: Coefficients, relaxation: MaxPoolRelaxation, extent: tuple[int, ...]
) -> tuple[Tensor, list[Coefficients]]:
    """Hand coefficients to each window's winner; where it is not sure, negative ones meet the upper limit."""
    given, sure = rows.coefficients, rows.local(relaxation.sure)
    negative = given.clamp(max=0)
    constant = torch.where(sure, 0.0, negative * rows.local(relaxation.top)).flatten(2).sum(2)
    kept = torch.where(sure, given, given - negative).flatten(3)
    winner = rows.local(relaxation.winner).flatten(3).expand_as(kept)
    whole = kept.new_zeros(*kept.shape[:3], extent[1] * extent[2]).scatter_add_(3, winner, kept)
    return constant, [Coefficients(owner=rows.owner, coefficients=whole.unflatten(3, extent[1:]))]
