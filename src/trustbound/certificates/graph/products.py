"""Products of two values that both depend on the input: number by number, or as matrices; squares among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustbound.certificates.graph.node_index import Arguments, NodeIndex
from trustbound.certificates.graph.operations import Operation

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator


@dataclass(frozen=True, kw_only=True, eq=False)
class Product(Operation):
    """Two operands multiplied number by number, broadcast to `shape`, or with `matrix` as matrices (n, d) · (d, m).

    `peak` says how many times larger than the product an intermediate may be.

    >>> step = Product(sources=(1, 2), shape=(1,))
    >>> step.limits(*(torch.tensor([[end]]) for end in (-1.0, 2.0, 3.0, 4.0)))
    (tensor([[-4.0000]]), tensor([[8.0000]]))
    """

    matrix: bool = False
    #: The length of the axis over which matrices are multiplied.
    inner: int = 1
    peak: float = 1.0

    def apply(self, *operands: Tensor) -> Tensor:
        """Multiply."""
        return operands[0] @ operands[1] if self.matrix else operands[0] * operands[1]

    @property
    def square(self) -> bool:
        """Whether both operands are the same value, number by number."""
        return self.sources[0] == self.sources[1] and not self.matrix

    @property
    def terms(self) -> int:
        """Count what one number sums: `inner` products."""
        return self.inner if self.matrix else 1

    def limits(self, *ends: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest product, rounded outward, for low and high of each operand.

        Between limits a product is least and largest at corners; a sum of products of a matrix is so term by term.
        """
        low, high, other_low, other_high = ends
        if self.square:
            squares = low * low, high * high
            within = (low <= 0) & (high >= 0)
            found = torch.minimum(*squares).masked_fill(within, 0.0), torch.maximum(*squares)
        elif not self.matrix:
            found = _corners(low, high, other_low, other_high)
        else:
            return self._matrix_limits(low, high, other_low, other_high)
        grain = 4 * torch.finfo(low.dtype).eps
        return found[0] - grain * found[0].abs(), found[1] + grain * found[1].abs()

    def _matrix_limits(self, low: Tensor, high: Tensor, other_low: Tensor, other_high: Tensor) -> tuple[Tensor, Tensor]:
        """Sum the limits of the products one by one; what the sums round is relative to their magnitudes."""
        least = most = low.new_zeros(())
        for place in range(self.inner):
            column, row = (..., slice(place, place + 1)), (..., slice(place, place + 1), slice(None))
            found = _corners(low[column], high[column], other_low[row], other_high[row])
            least, most = least + found[0], most + found[1]
        sizes = torch.maximum(low.abs(), high.abs()), torch.maximum(other_low.abs(), other_high.abs())
        grain = (self.terms + 16) * torch.finfo(low.dtype).eps * self.apply(*sizes)
        return least - grain, most + grain


def _corners(low: Tensor, high: Tensor, other_low: Tensor, other_high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest of the products of ends; NaN where one is none."""
    pairs = low * other_low, high * other_high, low * other_high, high * other_low
    first, second = torch.minimum(pairs[0], pairs[1]), torch.minimum(pairs[2], pairs[3])
    third, fourth = torch.maximum(pairs[0], pairs[1]), torch.maximum(pairs[2], pairs[3])
    return torch.minimum(first, second), torch.maximum(third, fourth)


def product(translator: Translator, first: Any, second: Any, peak: float = 1.0) -> NodeIndex:
    """Write the product of two values that depend on the input, number by number."""
    extents = translator.extent(first), translator.extent(second)
    if len(extents[0]) != len(extents[1]):
        raise translator.refusal("a product of two values that broadcasts over axes that one of them lacks")
    left = translator.cast(first)
    return translator.add(Product, left, left if second == first else translator.cast(second), peak=peak)


def matrix_product(translator: Translator, first: Any, second: Any, shape: tuple[int, ...] | None = None) -> NodeIndex:
    """Write the product of two matrices that depend on the input, or of as many pairs as axes before them say."""
    left, right = translator.extent(first), translator.extent(second)
    if len(left) < 2 or len(left) != len(right) or left[:-2] != right[:-2]:
        raise translator.refusal(f"a product of two values of shapes (B, {left}) and (B, {right})")
    first, second = translator.cast(first), translator.cast(second)
    return translator.add(Product, first, second, matrix=True, inner=left[-1], shape=shape)


def power(translator: Translator, given: Arguments) -> NodeIndex:
    """Write a square, or the value itself."""
    exponent = given.get("exponent", 2)
    if exponent == 1:
        return translator.cast(given["self"])
    if isinstance(exponent, torch.Tensor) or exponent != 2 or not isinstance(given["self"], NodeIndex):
        raise translator.refusal("a power other than 2")
    return product(translator, given["self"], given["self"])
