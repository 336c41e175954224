"""Planes under and over a softmax, lines under and over a root's inverse, and the way back through the planes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trustbound.certificates.graph.normalisation import Root, Softmax, differences
from trustbound.certificates.methods.interval import Bounds
from trustbound.certificates.methods.relaxations import LinearRelaxation

if TYPE_CHECKING:
    from trustbound.certificates.methods.backward import Coefficients


#: Numbers of an example that planes of one step may hold.
HELD = 1 << 23


@dataclass(frozen=True, kw_only=True, eq=False)
class ShareRelaxation:
    """For a softmax p over the last axis: Σ `below`ⱼₖ xₖ + `floor`ⱼ ≤ pⱼ ≤ Σ `above`ⱼₖ xₖ + `shift`ⱼ.

    Shapes      floor, shift (B, *F); below, above (B, *F, n), n being the length of the last axis, or None for zeros.
    """

    floor: Tensor
    shift: Tensor
    below: Tensor | None = None
    above: Tensor | None = None

    def select(self, rows: Tensor) -> ShareRelaxation:
        """Return those of some examples."""
        below, above = (None if part is None else part[rows] for part in (self.below, self.above))
        return ShareRelaxation(below=below, floor=self.floor[rows], above=above, shift=self.shift[rows])

    def single(self) -> ShareRelaxation:
        """Return the same in float32."""
        below, above = (None if part is None else part.float() for part in (self.below, self.above))
        return ShareRelaxation(below=below, floor=self.floor.float(), above=above, shift=self.shift.float())


def relax_softmax(step: Softmax, operand: Bounds) -> ShareRelaxation:
    """Return planes through exponentials: chords and tangents at the middle of the limits.

    With d = xₖ − xⱼ a share is 1 / S, S = Σ exp d. Below: S is under the sum T of the chords of its exponentials, and
    1 / T above its tangent where T is in the middle. Above: log S is convex and above its tangent plane, and the share
    exp(−log S) under the chord between its own limits. Where a plane is farther off in the middle than the share's own
    limit, the limit is taken; so it is for all shares of a step that would hold more than `HELD` numbers an example.

    Reference   Wei et al., Convex Bounds on the Softmax Function with Applications to Robustness Verification, 2023,
                arXiv:2303.01713, equations 12 and 17, made linear.

    >>> limits = Bounds(low=torch.tensor([[-1.0, 0.0]]).double(), high=torch.tensor([[0.0, 1.0]]).double())
    >>> found = relax_softmax(Softmax(sources=(0,), shape=(2,)), limits)
    >>> middle = torch.tensor([-0.5, 0.5]).double()
    >>> share = middle.softmax(0)
    >>> below, above = found.below @ middle + found.floor, found.above @ middle + found.shift
    >>> bool((below < share).all()), bool((share < above).all()), bool((above - below < 0.2).all())
    (True, True, True)
    """
    low, high = step.masked(operand.low, operand.high)
    middle = (low + high) / 2
    least, most = step.limits(low, high)
    if step.held > HELD:
        return ShareRelaxation(floor=least, shift=most)
    same = torch.eye(low.shape[-1], dtype=torch.bool, device=low.device)
    # Roundings: a few of each number, of exponents as large as the operands, times what these exponents multiply.
    # What a mask leaves out adds zeros, whose roundings are none.
    size = operand.size if step.allowed is None else operand.size.masked_fill(~step.allowed, 0.0)
    size = size.amax(-1, keepdim=True)
    grain = 16 * torch.finfo(low.dtype).eps * (low.shape[-1] + 64) * (1 + size).square()

    bottom, top = differences(low, high), differences(high, low)
    ends = bottom.exp(), top.exp()
    slopes = ((ends[1] - ends[0]) / (top - bottom)).where(top > bottom, ends[0])
    slopes = torch.minimum(torch.maximum(slopes, ends[0]), ends[1]).masked_fill(same, 0.0)
    # Each chord by its slope and the higher of the two lines of that slope through its ends.
    chords = torch.maximum(ends[0] - slopes * bottom, ends[1] - slopes * top)
    centre = (chords + slopes * differences(middle, middle)).sum(-1, keepdim=True)
    weights = slopes / centre.square()
    below = (weights.sum(-1, keepdim=True) * same) - weights
    floor = 2 / centre.squeeze(-1) - (chords / centre.square()).sum(-1)
    floor = floor - grain

    share = middle.softmax(-1)
    logs = least.log(), most.log()
    slope = ((most - least) / (logs[1] - logs[0])).where(logs[1] > logs[0], most)
    chord = torch.maximum(least - slope * logs[0], most - slope * logs[1])
    above = slope.unsqueeze(-1) * (same.to(low.dtype) - share.unsqueeze(-2))
    # −log S at the middle, and there the plane's own value taken off.
    tangent = middle.log_softmax(-1) - middle + (share * middle).sum(-1, keepdim=True)
    shift = chord + slope * tangent + grain

    known = (low.isfinite() & high.isfinite()).all(-1, keepdim=True)
    below, floor = _closer(below, floor, middle, least)
    above, shift = _closer(-above, -shift, middle, -most)
    unknown = ~known
    return ShareRelaxation(
        below=below.masked_fill(unknown.unsqueeze(-1), torch.nan),
        floor=floor.masked_fill(unknown, torch.nan),
        above=-above.masked_fill(unknown.unsqueeze(-1), torch.nan),
        shift=-shift.masked_fill(unknown, torch.nan),
    )


def _closer(plane: Tensor, constant: Tensor, middle: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return planes below a share, or its least value where that is higher in the middle or the plane is no number."""
    reached = (plane * middle.unsqueeze(-2)).sum(-1) + constant
    flat = ~(reached >= least) | ~plane.isfinite().all(-1)
    return plane.masked_fill(flat.unsqueeze(-1), 0.0), torch.where(flat, least, constant)


def relax_root(step: Root, operand: Bounds) -> LinearRelaxation:
    """Return the tangent in the middle of the limits below, and the chord above: the function is convex.

    >>> found = relax_root(Root(sources=(0,), shape=(1,), least=1e-5),
    ...                    Bounds(low=torch.tensor([[1.0]]).double(), high=torch.tensor([[4.0]]).double()))
    >>> round(float(found.above), 4), round(float(found.shift), 4)
    (-0.1667, 1.1667)
    """
    low, high = step.cut(operand.low, operand.high)
    middle = (low + high) / 2
    ends, size = (low.rsqrt(), high.rsqrt()), high
    grain = 64 * torch.finfo(low.dtype).eps
    below = -0.5 * middle.rsqrt() / middle
    floor = middle.rsqrt() - below * middle
    floor = floor - grain * (ends[0] + below.abs() * size)
    above = ((ends[1] - ends[0]) / (high - low)).where(high > low, below)
    steepest, flattest = -0.5 * ends[0] / low, -0.5 * ends[1] / high
    above = torch.minimum(torch.maximum(above, steepest), flattest)
    shift = torch.maximum(ends[0] - above * low, ends[1] - above * high)
    shift = shift + grain * (ends[0] + above.abs() * size)
    unknown = ~(operand.low.isfinite() & operand.high.isfinite() & floor.isfinite() & shift.isfinite())
    below, floor, above, shift = (part.masked_fill(unknown, torch.nan) for part in (below, floor, above, shift))
    return LinearRelaxation(below=below, floor=floor, above=above, shift=shift)


def through_softmax(rows: Coefficients, planes: ShareRelaxation) -> tuple[Tensor, list[Coefficients]]:
    """Take the plane below where a coefficient is positive, the plane above where it is negative."""
    given, owner = rows.coefficients, rows.owner
    negative = given.clamp(max=0)
    positive = given - negative
    floor, shift = (part[owner].flatten(1).unsqueeze(2) for part in (planes.floor, planes.shift))
    constant = (torch.bmm(positive.flatten(2), floor) + torch.bmm(negative.flatten(2), shift)).squeeze(2)
    if planes.below is None or planes.above is None:
        return constant, [replace(rows, coefficients=torch.zeros_like(given))]
    count = given.shape[-1]
    below, above = (part[owner].reshape(len(owner), -1, count, count) for part in (planes.below, planes.above))
    parts = [part.reshape(*given.shape[:2], -1, count) for part in (positive, negative)]
    back = torch.einsum("gkaj,gajc->gkac", parts[0], below) + torch.einsum("gkaj,gajc->gkac", parts[1], above)
    return constant, [replace(rows, coefficients=back.reshape(given.shape))]
