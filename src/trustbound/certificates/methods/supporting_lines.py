"""Lines under and over a smooth activation, sound between the limits of its operand."""

from __future__ import annotations

import torch
from torch import Tensor

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.methods.interval import Bounds
from trustbound.certificates.methods.relaxations import LinearRelaxation

#: Cells into which the limits are cut, halvings of the slopes' range, and numbers that are worked on together.
CELLS, HALVINGS, TOGETHER = 32, 8, 1 << 17


def relax_smooth(step: Smooth, operand: Bounds) -> LinearRelaxation:
    """Return the lines that come closest to the activation in the middle of its operand's limits.

    A line s z + c lies below where c ≤ min f(z) − s z. Between two points of a grid of spacing h that minimum is
    at most bend · h² / 8 below the smaller of the two values, bend being the largest |f''|: the error of linear
    interpolation. Any slope is sound then; s · middle + c is concave in s, and halving finds about the best.

    Reference   Zhang et al., Efficient Neural Network Robustness Certification with General Activation
                Functions, 2018, arXiv:1811.00866, section 3.2, in place of whose case distinctions by convexity
                one search stands.

    >>> from trustbound.certificates.graph.curves import SIGMOID
    >>> limits = Bounds(low=torch.tensor([[1.0]]).double(), high=torch.tensor([[3.0]]).double())
    >>> found = relax_smooth(Smooth(sources=(0,), shape=(1,), curve=SIGMOID), limits)
    >>> chord = float(torch.sigmoid(limits.high) - torch.sigmoid(limits.low)) / 2
    >>> abs(float(found.below) - chord) < 5e-3, float(found.above) < chord
    (True, True)
    """
    low, high = operand.low.flatten(), operand.high.flatten()
    parts = [_lines(step, *part) for part in zip(low.split(TOGETHER), high.split(TOGETHER), strict=True)]
    below, floor, above, shift = (torch.cat(part).reshape(operand.low.shape) for part in zip(*parts, strict=True))
    return LinearRelaxation(below=below, floor=floor, above=above, shift=shift)


def _lines(step: Smooth, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return below, floor, above and shift for limits (N,); NaN where a limit is no finite number."""
    curve = step.curve
    shares = torch.linspace(0.0, 1.0, CELLS + 1, dtype=low.dtype, device=low.device).unsqueeze(1)
    points = torch.lerp(low, high, shares)
    points[0], points[-1] = low, high
    values = curve.function(points)
    middle, width = points[CELLS // 2], (high - low) / CELLS * (1 + 1e-9)
    # What lies between the points, and what evaluating values, products and differences rounds.
    size = torch.maximum(low.abs(), high.abs())
    slack = curve.bend * width * width / 8 + 2 * curve.roundoff(size, low.dtype) * (1 + curve.steepness)
    below, floor = _under(points, values, middle, curve.steepness)
    above, shift = _under(points, -values, middle, curve.steepness)
    known = (floor - slack).isfinite() & (shift - slack).isfinite() & (low <= high)
    least, most = step.limits(low, high)
    below, floor = _closer(below, floor - slack, middle, least)
    above, shift = _closer(above, shift - slack, middle, -most)
    return tuple(part.where(known, torch.nan) for part in (below, floor, -above, -shift))  # type: ignore[return-value]


def _closer(slope: Tensor, constant: Tensor, middle: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return a line below a curve, or the curve's least value where that is higher in the middle."""
    flat = ~(slope * middle + constant >= least)
    return slope.masked_fill(flat, 0.0), torch.where(flat, least, constant)


def _under(points: Tensor, values: Tensor, middle: Tensor, steepness: float) -> tuple[Tensor, Tensor]:
    """Return the slope (N,) of a line under the points (G, N) that is nearly the highest at the middle, and its c."""
    least, most = torch.full_like(middle, -steepness), torch.full_like(middle, steepness)
    for _ in range(HALVINGS):
        slope = (least + most) / 2
        touched = points.gather(0, (values - slope * points).argmin(0, keepdim=True))[0]
        # Where the line touches left of the middle it may be turned up, and rise there.
        least, most = least.where(touched >= middle, slope), most.where(touched < middle, slope)
    chord = (values[-1] - values[0]) / (points[-1] - points[0])
    chord = chord.where(points[-1] > points[0], 0.0).clamp(-steepness, steepness)
    best, height = least, torch.full_like(middle, -torch.inf)
    for slope in (least, most, chord):
        found = (values - slope * (points - middle)).amin(0)
        best, height = torch.where(found > height, slope, best), torch.fmax(found, height)
    return best, (values - best * points).amin(0)
