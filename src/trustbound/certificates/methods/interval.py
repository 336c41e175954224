"""Interval bounds: push the limits of every number through the network, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.matrix_operations import Dense, MatrixOperation
from trustbound.certificates.graph.operations import Arrange, Input, Linear, Operation, Scale
from trustbound.certificates.region import Region
from trustbound.certificates.slack import disturbance, growth, split
from trustbound.certificates.specification import Certifier, LowerBound


@dataclass(frozen=True, kw_only=True, eq=False)
class Bounds:
    """What a step's values can be: limits (B, *F), and how they still hang on the input.

    `centre` (B, *F) and `factor` (*F) are there while every value is its own input times a factor plus a
    constant, so that the next mixing step can use the norm of its rows. `tight` says that the limits are those
    of an affine function over the region: no backward pass can better them.

    Limits hold for the values as the network computes them. `summed` (B, *F) bounds the magnitudes that the step
    sums, `error` (B, *F) how far it is from exact, `drift` (B, *F) how far the values are from the affine function
    of `centre` and `factor`, None for nothing; of the examples `lost` (B,) nothing is known as the network runs.
    """

    low: Tensor
    high: Tensor
    centre: Tensor | None = None
    factor: Tensor | None = None
    tight: bool = False
    summed: Tensor | None = None
    error: Tensor | None = None
    drift: Tensor | None = None
    lost: Tensor | None = None

    @property
    def size(self) -> Tensor:
        """The largest magnitudes, (B, *F)."""
        return torch.maximum(self.low.abs(), self.high.abs())

    @property
    def room(self) -> Tensor:
        """How far the values may go from those of `centre`, (B, *F); from the middle without one."""
        centre = (self.low + self.high) / 2 if self.centre is None else self.centre
        return torch.maximum(self.high - centre, centre - self.low).clamp(min=0.0)

    def select(self, rows: Tensor) -> Bounds:
        """Return the limits of some examples."""
        found = replace(self, low=self.low[rows], high=self.high[rows])
        for name in ("centre", "summed", "error", "drift", "lost"):
            part = getattr(self, name)
            found = found if part is None else replace(found, **{name: part[rows]})
        return found

    def intersect(self, low: Tensor, high: Tensor) -> Bounds:
        """Return the limits narrowed to those given as well."""
        return replace(self, low=torch.fmax(self.low, low), high=torch.fmin(self.high, high))


@dataclass(frozen=True, kw_only=True, eq=False)
class Interval(Certifier):
    """Bound every number by an interval, in midpoint and radius; fuse the margin with the last linear layer.

    Bound       Lower. Deterministic: holds for every input of the region.
    Needs       a network that can be read into a list of operations.  Norms: linf, l2, l1, l0.
    Update      middle <- W middle + b;  radius <- |W| radius;  activations and max pools on both limits.
                The first linear layer uses the dual norm of its rows where that is smaller (l2, l1); under l0 as many
                times its rows' largest weight as values may change.
                Margins: the better of rows applied to the logits' limits, and rows · last layer applied to its
                operand's limits.
    Shapes      region (B, *F); specification (B, K, C); returns (B, K) float64.
    Cost        three forwards, twice: with the network's own rounding and without.
    Randomness  none.
    Raises      nothing of its own.
    Reference   Gowal et al., On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust
                Models, 2018, arXiv:1810.12715, equations 6 to 8 and section 3.
    Deviations  rounding is added outward at every step; l2, l1 and l0 balls enter through row norms.

    >>> from trustbound.certificates.graph import read
    >>> linear = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(linear.weight)
    >>> inputs, labels = torch.tensor([[0.75, 0.25]]), torch.tensor([0])
    >>> region = Region.around(inputs, (0.0, 1.0), "linf", 0.125)
    >>> Interval().margins(read(linear, inputs), region, labels).value
    tensor([0.2500], dtype=torch.float64)
    """

    def bound(self, graph: Graph, region: Region, specification: Tensor, least: bool) -> LowerBound:
        """Bound ⟨row, logits⟩ for a few examples; with `least` only the smallest of each counts."""
        exact = graph.without_rounding()
        found = bound_specification(exact, region, interval_bounds(exact, region), specification)
        run = bound_specification(graph, region, interval_bounds(graph, region), specification)
        return LowerBound(value=found.value, run=run.run)


def interval_bounds(graph: Graph, region: Region) -> list[Bounds]:
    """Return the limits of every step of the list."""
    found: list[Bounds] = []
    for step in graph.operations:
        found.append(propagate(step, [found[source] for source in step.sources], region))
    return found


def propagate(step: Operation, operands: Sequence[Bounds], region: Region) -> Bounds:
    """Return the limits of one step from those of its operands."""
    if isinstance(step, Input):
        ones = torch.ones_like(region.inputs[0])
        bounds = Bounds(low=region.low, high=region.high, centre=region.inputs, factor=ones, tight=True)
        return replace(bounds, summed=bounds.size)
    low = high = None
    if not isinstance(step, Linear):
        low, high = step.limits(*(end for operand in operands for end in (operand.low, operand.high)))
    summed, error = disturbance(step, [operand.size for operand in operands], high)
    error, lost = split(error)
    for operand in operands:
        lost = operand.lost if lost is None else lost if operand.lost is None else lost | operand.lost
    rounded, noise = 0.0, torch.zeros_like(summed)
    if low is None or high is None:
        assert isinstance(step, Linear)
        rounded = growth(step.terms)
        noise = rounded * summed
        middle = step.apply(*((operand.low + operand.high) / 2 for operand in operands))
        radius = step.absolute(*((operand.high - operand.low) / 2 for operand in operands)) + 2 * noise
        radius = radius * (1 + rounded) if error is None else (radius + error) * (1 + rounded)
        low, high = middle - radius, middle + radius
    elif error is not None:
        low, high = low - error, high + error
    bounds = Bounds(low=low, high=high, summed=summed, error=error, lost=lost)
    if not isinstance(step, Linear) or len(operands) > 1:
        return bounds
    only = operands[0]
    if only.centre is None or only.factor is None:
        return replace(bounds, tight=only.tight and isinstance(step, Scale | Arrange))
    drift = only.drift if only.drift is None else step.absolute(only.drift) * (1 + rounded)
    drift = error if drift is None else drift if error is None else drift + error
    if isinstance(step, Scale | Arrange):
        factor = step.absolute(only.factor.unsqueeze(0)).squeeze(0)
        return replace(bounds, centre=step.apply(only.centre), factor=factor, drift=drift, tight=True)
    if not isinstance(step, MatrixOperation):
        return bounds
    spread = region.spread_of_layer(step, only.factor, only.room)
    if spread is None:
        return replace(bounds, tight=True)
    wide = spread * (1 + rounded) + 2 * noise
    wide = wide if drift is None else wide + drift
    centre = step.apply(only.centre)
    return bounds.intersect(centre - wide, centre + wide)  # ball or box: rows that go back meet both at once


def bound_specification(graph: Graph, region: Region, found: Sequence[Bounds], specification: Tensor) -> LowerBound:
    """Bound ⟨row, logits⟩ from the limits of every step: rows (B, K, C) to (B, K).

    The last step's own rounding is taken off at the end: `value` leaves it out.
    """
    logits, last = found[-1], graph.operations[graph.head]
    low, high = logits.low, logits.high
    if logits.error is not None:
        low, high = low + logits.error, high - logits.error
    bound = _disturbed(_least(specification, low, high, growth(graph.classes)), specification, [logits.error])
    if isinstance(last, Dense) and len(graph.operations[last.sources[0]].shape) == 1:
        errors = [found[index].error for index in {graph.head, len(found) - 1}]
        fused = _fused(region, found[last.sources[0]], last, specification)
        bound = bound.better(_disturbed(fused, specification, errors))
    return bound.unknown(logits.lost)


def _disturbed(value: Tensor, specification: Tensor, errors: Sequence[Tensor | None]) -> LowerBound:
    """Return a bound (B, K) of rows (B, K, C) with what disturbances (B, C) of the logits take off as they run."""
    run = value
    for error in errors:
        if error is not None:
            taken = torch.bmm(specification.abs(), error.unsqueeze(2)).squeeze(2)
            run = run - taken * (1 + growth(specification.shape[2]))
    return LowerBound(value=value, run=run)


def _fused(region: Region, operand: Bounds, last: Dense, specification: Tensor) -> Tensor:
    """Bound the product of rows and last layer over the limits of its operand, (B, K)."""
    error = growth(last.terms + specification.shape[2])
    rows = specification @ last.weight
    # What the product of rows and weights itself rounds, times the largest operand.
    noise = error * (specification.abs() @ last.absolute(operand.size).unsqueeze(2)).squeeze(2)
    if last.bias_size is not None:
        noise = noise + error * (specification.abs() @ last.bias_size)
    fused = _least(rows, operand.low, operand.high, error)
    spread = None if operand.factor is None else region.spread(rows, operand.factor, operand.room)
    if operand.centre is not None and spread is not None:
        ball = torch.bmm(rows, operand.centre.unsqueeze(2)).squeeze(2) - spread * (1 + error) - noise
        if operand.drift is not None:
            ball = ball - (1 + error) * torch.bmm(rows.abs(), operand.drift.unsqueeze(2)).squeeze(2)
        fused = torch.fmax(fused, ball)
    shift = 0.0 if last.bias is None else specification @ last.bias
    return fused + shift - 2 * noise


def _least(rows: Tensor, low: Tensor, high: Tensor, error: float) -> Tensor:
    """Bound ⟨row, x⟩ from below for x between low and high: rows (B, K, C) to (B, K)."""
    size = torch.maximum(low.abs(), high.abs())
    middle, radius = (low + high) / 2, (high - low) / 2 + 2 * error * size
    bounds = torch.bmm(rows.abs(), radius.unsqueeze(2))
    return (torch.bmm(rows, middle.unsqueeze(2)) - bounds * (1 + error)).squeeze(2)
