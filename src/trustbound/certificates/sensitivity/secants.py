"""How fast a network does change: two inputs whose outputs lie far apart for their distance, found by ascent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.methods.interval import interval_bounds
from trustbound.certificates.methods.lipschitz import drifts_of
from trustbound.certificates.region import Region
from trustbound.certificates.sensitivity.gains import norms
from trustbound.certificates.sensitivity.operator_norms import NORMS
from trustbound.certificates.slack import growth, vanished
from trustbound.record.box import Box
from trustbound.threat.random import Random

_ORDER = {"l2": 2.0, "l1": 1.0, "linf": math.inf}
#: Half the distance of the two inputs at the start and at the end, in widths of the box (l2: times √features).
_LENGTHS = (0.1, 1e-3)
#: How many starting points are climbed from to the end, and how many pairs are measured in float64.
_CLIMBED, _MEASURED = 16, 4
#: Bytes that one batch may hold, about.
_MEMORY = 2**27


@dataclass(frozen=True, kw_only=True, eq=False)
class Secant:
    """Two inputs (*F) of the box, and a lower bound of how much further apart their outputs are than they.

    The slope is measured in float64, with what rounding may have added taken off, so that no constant below it can
    be a Lipschitz constant of the network on the box.
    """

    slope: float
    first: Tensor
    second: Tensor


def steepest_secant(
    graph: Graph, inputs: Tensor, box: Box, norm: str = "l2", *, steps: int = 60, key: int = 0
) -> Secant:
    """Search for two inputs of the box between which the outputs change fastest, in a norm.

    Update      v <- the unit vector along ∇_v ‖f(x + h v) − f(x − h v)‖;  x <- x + h · unit(∇_x of the same), both
                placed in the box;  h falls from a tenth of the box's width to a thousandth. Where h is small this is
                the power iteration v <- JᵀJ v, and the pair shows the norm of the Jacobian J; while it is large, its
                gradient in x sees over the pieces of a piecewise linear network, on each of which J is constant.
    Shapes      inputs (B, *F) in the box, from which the search starts.
    Cost        two forwards and backwards a step and pair; a third of the steps from all inputs, the others from the
                16 best. The 4 best pairs are measured in float64, at three lengths.
    Randomness  the first directions, a function of (key, input).
    Reference   Boyd, The power method for l^p norms, 1974, for the directions in l1 and l∞.

    >>> from trustbound.certificates.graph import read
    >>> linear = torch.nn.Linear(2, 2, bias=False)
    >>> _ = linear.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    >>> inputs = torch.tensor([[0.5, 0.5]])
    >>> round(steepest_secant(read(linear, inputs), inputs, Box(low=0.0, high=1.0)).slope, 6)
    4.0
    """
    assert norm in NORMS
    search, inputs = graph.single(), inputs.detach().to(graph.device, torch.float32)
    first = max(1, steps // 3)
    rows = torch.arange(len(inputs), device=graph.device)
    unit = Random(key, rows).stream("secants").normal(tuple(inputs.shape[1:]), restart=0, draw=0).to(inputs)
    room = max(1, _MEMORY // (16 * sum(step.features for step in graph.operations)))
    parts = [
        _climb(search, inputs[part], _along(unit[part], norm), box, norm, range(first), steps)
        for part in rows.split(room)
    ]
    centres, unit, slopes = (torch.cat(columns) for columns in zip(*parts, strict=True))
    best = slopes.nan_to_num(-1.0).argsort(descending=True, stable=True)[:_CLIMBED]
    parts = [
        _climb(search, centres[part], unit[part], box, norm, range(first, steps), steps) for part in best.split(room)
    ]
    centres, unit, slopes = (torch.cat(columns) for columns in zip(*parts, strict=True))
    found = []
    for row in slopes.argsort(descending=True, stable=True)[:_MEASURED].split(1):
        for share in (1.0, 0.1, 0.01):
            pair = _pair(centres[row].double(), unit[row].double(), share * _length(box, inputs, norm, 1.0), box)
            found.append((*pair, _measure(graph, *pair, norm)))
    firsts, seconds, slopes = (torch.cat(columns) for columns in zip(*found, strict=True))
    top = int(slopes.argmax())
    return Secant(slope=max(0.0, float(slopes[top])), first=firsts[top], second=seconds[top])


def _climb(
    graph: Graph, centre: Tensor, along: Tensor, box: Box, norm: str, turns: range, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb from centres (B, *F) and unit vectors; return the best of each seen, with its slope as it was met."""
    best = centre, along, torch.full((len(centre),), -1.0, device=centre.device)
    for turn in turns:
        length = _length(box, centre, norm, turn / max(1, steps - 1))
        ends = [end.requires_grad_() for end in _pair(centre, along, length, box)]
        with torch.enable_grad():
            gap = graph(ends[0]) - graph(ends[1])
            size: Tensor = torch.linalg.vector_norm(gap.flatten(1), _ORDER[norm], 1)
            gradients = torch.autograd.grad(size.sum(), ends)
        apart = torch.linalg.vector_norm((ends[0] - ends[1]).detach().flatten(1), _ORDER[norm], 1)
        slope = (size.detach() / apart).nan_to_num(-1.0)
        better = slope > best[2]
        wide = better.reshape(-1, *[1] * (centre.ndim - 1))
        best = torch.where(wide, centre, best[0]), torch.where(wide, along, best[1]), slope.where(better, best[2])
        onward, turned = gradients[0] + gradients[1], gradients[0] - gradients[1]
        along = _along(turned, norm)
        centre = _inside(centre + length * _along(onward, norm), box)
    return best


def _along(vector: Tensor, norm: str) -> Tensor:
    """Return the unit vectors (B, *F) of a norm that a linear function of gradient `vector` grows fastest along."""
    flat = vector.flatten(1)
    if norm == "linf":
        unit = flat.sign()
    elif norm == "l1":
        unit = torch.zeros_like(flat)
        top = flat.abs().argmax(1, keepdim=True)
        unit.scatter_(1, top, flat.gather(1, top).sign())
    else:
        unit = flat / torch.linalg.vector_norm(flat, 2, 1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    return unit.reshape(vector.shape)


def _length(box: Box, inputs: Tensor, norm: str, share: float) -> float:
    """Half the distance of two inputs when a share of the steps is done."""
    scale = box.width * (math.sqrt(inputs[0].numel()) if norm == "l2" else 1.0)
    return float(scale * _LENGTHS[0] * (_LENGTHS[1] / _LENGTHS[0]) ** share)


def _inside(points: Tensor, box: Box) -> Tensor:
    """Place points in the box."""
    low, high = (torch.as_tensor(limit, dtype=points.dtype, device=points.device) for limit in (box.low, box.high))
    return points.clamp(low, high)


def _pair(centre: Tensor, along: Tensor, length: float, box: Box) -> tuple[Tensor, Tensor]:
    """Return the two inputs at a length from each centre, as far as the box allows."""
    return _inside(centre + length * along, box).detach(), _inside(centre - length * along, box).detach()


def _measure(graph: Graph, first: Tensor, second: Tensor, norm: str) -> Tensor:
    """Bound from below how much further apart than (B, *F) each two inputs are their outputs: (B,)."""
    exact = graph.without_rounding()
    exact.cache.setdefault("norms in l2", norms(graph))
    with torch.no_grad():
        values, drifts = [], []
        for points in (first, second):
            region = Region.between(points, points)
            reached, drift, _ = drifts_of(exact, region, interval_bounds(exact, region))
            values.append(reached[-1])
            # Of the exact network the second column holds what a kernel leaves out, as softplus beyond its threshold.
            drifts.append(2 * drift[-1].sum(1))
        gap, apart = values[0] - values[1], (first - second).flatten(1)
        classes, features = gap.shape[1], apart.shape[1]
        size = torch.linalg.vector_norm(gap, _ORDER[norm], 1) * (1 - growth(classes))
        away = torch.linalg.vector_norm(apart, _ORDER[norm], 1) * (1 + growth(features)) + vanished(features)
        # An error of some length in l2 is no longer in l∞, and at most √classes times as long in l1.
        error = (drifts[0] + drifts[1]) * (math.sqrt(classes) if norm == "l1" else 1.0)
        slope: Tensor = (size - error) * (1 - growth(4)) / away
        return slope.nan_to_num(0.0, posinf=0.0)
