"""Interval bounds: push the limits of every number through the network, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.certificates.graph.listing import Graph
from trustbound.certificates.graph.mixing import Dense, Mixing
from trustbound.certificates.graph.operations import Arrange, Input, Linear, Operation, Scale
from trustbound.certificates.region import Region
from trustbound.certificates.slack import growth
from trustbound.certificates.specification import Certifier


@dataclass(frozen=True, kw_only=True, eq=False)
class Reach:
    """What a step's values can be: limits (B, *F), and how they still hang on the input.

    `centre` (B, *F) and `factor` (*F) are there while every value is its own input times a factor plus a
    constant, so that the next mixing step can use the norm of its rows. `tight` says that the limits are those
    of an affine function over the region: no backward pass can better them.
    """

    low: Tensor
    high: Tensor
    centre: Tensor | None = None
    factor: Tensor | None = None
    tight: bool = False

    @property
    def size(self) -> Tensor:
        """The largest magnitudes, (B, *F)."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def intersect(self, low: Tensor, high: Tensor) -> Reach:
        """Return the limits narrowed to those given as well."""
        return Reach(low=torch.fmax(self.low, low), high=torch.fmin(self.high, high), tight=self.tight)


@dataclass(frozen=True, kw_only=True, eq=False)
class Interval(Certifier):
    """Bound every number by an interval, in midpoint and radius; fuse the margin with the last linear layer.

    Bound       Lower. Deterministic: holds for every input of the region.
    Needs       a network that can be read into a list of operations.  Norms: linf, l2, l1.
    Update      middle <- W middle + b;  radius <- |W| radius;  ReLU and max pool on both limits.
                The first linear layer uses the dual norm of its rows where that is smaller (l2, l1).
                Margins: the better of rows applied to the logits' limits, and rows · last layer applied to its
                operand's limits.
    Shapes      region (B, *F); specification (B, K, C); returns (B, K) float64.
    Cost        two forwards.
    Randomness  none.
    Raises      nothing of its own.
    Reference   Gowal et al., On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust
                Models, 2018, arXiv:1810.12715, equations 6 to 8 and section 3.
    Deviations  rounding is added outward at every step; l2 and l1 balls enter through row norms.

    >>> from trustbound.certificates.graph import read
    >>> linear = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(linear.weight)
    >>> inputs, labels = torch.tensor([[0.75, 0.25]]), torch.tensor([0])
    >>> region = Region.around(inputs, (0.0, 1.0), "linf", 0.125)
    >>> Interval().margins(read(linear, inputs), region, labels)
    tensor([0.2500], dtype=torch.float64)
    """

    def bound(self, graph: Graph, region: Region, specification: Tensor, least: bool) -> Tensor:
        """Bound ⟨row, logits⟩ for a few examples; with `least` only the smallest of each counts."""
        return conclude(graph, region, reaches(graph, region), specification)


def reaches(graph: Graph, region: Region) -> list[Reach]:
    """Return the limits of every step of the list."""
    found: list[Reach] = []
    for step in graph.operations:
        found.append(advance(step, [found[source] for source in step.sources], region))
    return found


def advance(step: Operation, operands: Sequence[Reach], region: Region) -> Reach:
    """Return the limits of one step from those of its operands."""
    if isinstance(step, Input):
        ones = torch.ones_like(region.inputs[0])
        return Reach(low=region.low, high=region.high, centre=region.inputs, factor=ones, tight=True)
    if not isinstance(step, Linear):
        return Reach(low=step.apply(operands[0].low), high=step.apply(operands[0].high))
    error = growth(step.terms)
    middles = [(operand.low + operand.high) / 2 for operand in operands]
    radii = [(operand.high - operand.low) / 2 + error * operand.size for operand in operands]
    middle, radius = step.apply(*middles), step.absolute(*radii)
    if step.bias_size is not None:
        radius = radius + error * step.bias_size
    low, high = middle - radius * (1 + error), middle + radius * (1 + error)
    only = operands[0]
    if only.centre is None or only.factor is None:
        tight = len(operands) == 1 and only.tight and isinstance(step, Scale | Arrange)
        return Reach(low=low, high=high, tight=tight)
    if len(operands) == 1 and isinstance(step, Scale | Arrange):
        factor = step.absolute(only.factor.unsqueeze(0)).squeeze(0)
        return Reach(low=low, high=high, centre=step.apply(only.centre), factor=factor, tight=True)
    if len(operands) > 1 or not isinstance(step, Mixing):
        return Reach(low=low, high=high)
    if region.norm == "linf":
        return Reach(low=low, high=high, tight=True)
    rows, attained = (
        (step.squares(only.factor.square()).sqrt(), True) if region.norm == "l2" else step.largest(only.factor)
    )
    noise = error * step.absolute(only.size)
    if step.bias_size is not None:
        noise = noise + error * step.bias_size
    wide = region.radius.reshape(-1, *[1] * rows.ndim) * rows * (1 + error) + 2 * noise
    centre = step.apply(only.centre)
    ball = Reach(low=low, high=high, tight=attained)
    return ball.intersect(centre - wide, centre + wide)


def conclude(graph: Graph, region: Region, found: Sequence[Reach], specification: Tensor) -> Tensor:
    """Bound ⟨row, logits⟩ from the limits of every step: rows (B, K, C) to (B, K)."""
    logits, last = found[-1], graph.operations[-1]
    bound = _least(specification, logits.low, logits.high, growth(graph.classes))
    if not isinstance(last, Dense) or len(graph.operations[last.sources[0]].shape) != 1:
        return bound
    operand, error = found[last.sources[0]], growth(last.terms + graph.classes)
    rows = specification @ last.weight
    shift = torch.zeros_like(bound) if last.bias is None else specification @ last.bias
    # What the product of rows and weights itself rounds, times the largest operand.
    noise = error * (specification.abs() @ last.absolute(operand.size).unsqueeze(2)).squeeze(2)
    if last.bias_size is not None:
        noise = noise + error * (specification.abs() @ last.bias_size)
    fused = _least(rows, operand.low, operand.high, error)
    if operand.centre is not None and operand.factor is not None and region.norm != "linf":
        weighted = rows * operand.factor
        dual = weighted.abs().amax(2) if region.norm == "l1" else torch.linalg.vector_norm(weighted, 2, 2)
        wide = region.radius.unsqueeze(1) * dual * (1 + error)
        fused = torch.fmax(fused, torch.bmm(rows, operand.centre.unsqueeze(2)).squeeze(2) - wide - noise)
    return torch.fmax(bound, fused + shift - 2 * noise)


def _least(rows: Tensor, low: Tensor, high: Tensor, error: float) -> Tensor:
    """Bound ⟨row, x⟩ from below for x between low and high: rows (B, K, C) to (B, K)."""
    size = torch.maximum(low.abs(), high.abs())
    middle, radius = (low + high) / 2, (high - low) / 2 + 2 * error * size
    reach = torch.bmm(rows.abs(), radius.unsqueeze(2))
    return (torch.bmm(rows, middle.unsqueeze(2)) - reach * (1 + error)).squeeze(2)
