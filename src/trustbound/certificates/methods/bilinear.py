"""Planes under and over a product of two values that are known between limits, and the way back through them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trustbound.certificates.graph.products import Product
from trustbound.certificates.methods.interval import Bounds
from trustbound.certificates.slack import growth

if TYPE_CHECKING:
    from trustbound.certificates.methods.backward import Coefficients


@dataclass(frozen=True, kw_only=True, eq=False)
class BilinearRelaxation:
    """For a product x · y: `left` · y + x · `right` + `floor` ≤ x · y ≤ `left` · y + x · `right` + `shift`.

    Shapes      left, right (B, *F of the operands); floor, shift (B, *F of the product).
    """

    left: Tensor
    right: Tensor
    floor: Tensor
    shift: Tensor

    def select(self, rows: Tensor) -> BilinearRelaxation:
        """Return those of some examples."""
        return BilinearRelaxation(
            left=self.left[rows], right=self.right[rows], floor=self.floor[rows], shift=self.shift[rows]
        )

    def single(self) -> BilinearRelaxation:
        """Return the same in float32."""
        left, right, floor, shift = (part.float() for part in (self.left, self.right, self.floor, self.shift))
        return BilinearRelaxation(left=left, right=right, floor=floor, shift=shift)


def relax_product(step: Product, first: Bounds, second: Bounds) -> BilinearRelaxation:
    """Return the planes that touch the product in the middle of its operands' limits, moved out of its way.

    x y = m y + n x − m n + (x − m)(y − n), and the last part is between ± r s for half-widths r, s; of a square it is
    between 0 and r². Both planes are the means of McCormick's two on their side, which are all equally close in the
    middle.

    Reference   McCormick, Computability of Global Solutions to Factorable Nonconvex Programs, 1976; Shi et al.,
                Robustness Verification for Transformers, 2020, arXiv:2002.06622, section 3.3, which takes one plane
                of each pair.

    >>> one = Bounds(low=torch.tensor([[1.0]]), high=torch.tensor([[3.0]]))
    >>> found = relax_product(Product(sources=(0, 1), shape=(1,)), one, one)
    >>> float(found.left), round(float(found.floor), 4), round(float(found.shift), 4)
    (2.0, -5.0, -3.0)
    """
    middles, halves = [], []
    for low, high in ((first.low, first.high), (second.low, second.high)):
        middle = (low + high) / 2
        middles.append(middle)
        halves.append(torch.maximum(high - middle, middle - low) * (1 + 4 * torch.finfo(low.dtype).eps))
    centre, apart = step.apply(*middles), step.apply(*halves)
    grain = growth(step.terms, apart.dtype)
    slack = grain * (step.apply(first.size, second.size) + apart)
    floor, shift = -centre - apart - slack, apart + slack - centre
    if step.square:
        floor = -centre - slack
    return BilinearRelaxation(left=middles[0], right=middles[1], floor=floor, shift=shift)


def through_product(step: Product, rows: Coefficients, planes: BilinearRelaxation) -> tuple[Tensor, list[Coefficients]]:
    """Return the constant (G, K) that a product adds, and the rows over each of its operands."""
    given, owner = rows.coefficients, rows.owner
    negative = given.clamp(max=0).flatten(2)
    positive = given.flatten(2) - negative
    floor, shift = (part[owner].flatten(1).unsqueeze(2) for part in (planes.floor, planes.shift))
    constant = (torch.bmm(positive, floor) + torch.bmm(negative, shift)).squeeze(2)
    left, right = planes.left[owner].unsqueeze(1), planes.right[owner].unsqueeze(1)
    if not step.matrix:
        parts = [_summed(given * right, left.shape), _summed(given * left, right.shape)]
    else:
        # One product for all rows of a group, for each of the pairs of matrices (n, d), (d, m) that there are.
        flat = given.reshape(*given.shape[:2], -1, *given.shape[-2:])
        x, y = (side.reshape(len(owner), -1, *side.shape[-2:]) for side in (left, right))
        parts = [torch.einsum("gkanm,gadm->gkand", flat, y), torch.einsum("gand,gkanm->gkadm", x, flat)]
        sides = zip(parts, (left, right), strict=True)
        parts = [part.reshape(*given.shape[:2], *side.shape[2:]) for part, side in sides]
    return constant, [replace(rows, coefficients=part) for part in parts]


def _summed(coefficients: Tensor, shape: torch.Size) -> Tensor:
    """Sum coefficients (G, K, *F) over the axes along which an operand (G, 1, *F) was repeated."""
    axes = [axis for axis in range(2, coefficients.ndim) if shape[axis] == 1 and coefficients.shape[axis] > 1]
    return coefficients.sum(axes, keepdim=True) if axes else coefficients
