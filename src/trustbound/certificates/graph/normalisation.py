"""Normalisation of an example by its own numbers: softmax over an axis, layer, group and root mean square norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustbound.certificates.graph.matrix_operations import Mean
from trustbound.certificates.graph.node_index import Arguments, NodeIndex, constant_only
from trustbound.certificates.graph.operations import Arrange, Linear, Operation, Scale, Shape
from trustbound.certificates.graph.products import Product

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator

#: Unit roundoffs, twice, that a softmax's exponentials, sum and quotient are off by beside its terms and their range.
#: Kernels of torch for float32 take exponentials that are off by 20 units in the last place.
ROUNDOFFS = 64
#: Numbers of a softmax up to which the limits of each share are summed by themselves.
PAIRED = 64


#: So far below another exponent that its exponential is 0 beside it in float64, of which the smallest is exp(−745).
FAR = 800.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Softmax(Operation):
    """Exponentials over the last axis, divided by their sum, those that a mask leaves out counted as zero.

    `allowed` (*F) or what broadcasts to it says which are in, None for all; of every row one is.

    >>> step = Softmax(sources=(0,), shape=(2,))
    >>> least, most = step.limits(torch.tensor([[0.0, -1.0]]).double(), torch.tensor([[1.0, 0.0]]).double())
    >>> [round(float(number), 4) for number in (*least[0], *most[0])]
    [0.5, 0.1192, 0.8808, 0.5]
    """

    allowed: Tensor | None = None

    def apply(self, *operands: Tensor) -> Tensor:
        """Compute the shares."""
        given = operands[0] if self.allowed is None else operands[0].masked_fill(~self.allowed, -math.inf)
        return given.softmax(-1)

    def masked(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return limits (B, *F) with those left out so far below all others that float64 holds their share as zero.

        >>> step = Softmax(sources=(0,), shape=(2,), allowed=torch.tensor([True, False]))
        >>> step.masked(torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 6.0]]))[1]
        tensor([[   2., -799.]])
        """
        if self.allowed is None:
            return values
        bottom = values[0].masked_fill(~self.allowed, math.inf).amin(-1, keepdim=True) - FAR
        return tuple(torch.where(self.allowed, value, bottom) for value in values)

    def limits(self, *ends: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest shares, rounded outward: each at a corner, 1 / Σ exp(xₖ − xⱼ)."""
        low, high = self.masked(*ends)
        least, most = 1 / self.sums(high, low, 1.0), 1 / self.sums(low, high, -1.0)
        known = (low.isfinite() & high.isfinite()).all(-1, keepdim=True)
        slack = self.relative(torch.float64)
        least, most = least * (1 - slack), (most * (1 + slack)).clamp(max=1.0)
        return least.where(known, torch.nan), most.where(known, torch.nan)

    @property
    def held(self) -> int:
        """Two planes for each share, and what they are made from."""
        return self.features * self.shape[-1]

    @staticmethod
    def sums(others: Tensor, own: Tensor, side: float) -> Tensor:
        """Bound 1 + Σ exp(othersₖ − ownⱼ) over k ≠ j, for each j of the last axis: from above for side 1, below for −1.

        Of many numbers all are summed once and each is taken off; what that rounds is moved outward.
        """
        if own.shape[-1] <= PAIRED:
            return differences(others, own).exp().sum(-1)
        top = others.amax(-1, keepdim=True)
        parts = (others - top).exp()
        whole = parts.sum(-1, keepdim=True)
        rounded = 8 * torch.finfo(own.dtype).eps * own.shape[-1] * whole
        return 1 + (top - own).exp() * (whole - parts + side * rounded).clamp(min=0.0)

    def relative(self, dtype: torch.dtype) -> float:
        """Bound what a share that is computed in a precision is off by, relative to itself.

        An exponent x − max is rounded, so that its exponential is off by |x − max| units; below the exponent of the
        smallest normal number what is computed may be 0.
        """
        kind = torch.finfo(dtype)
        return kind.eps * (self.shape[-1] + ROUNDOFFS - math.log(kind.smallest_normal))


def differences(others: Tensor, own: Tensor) -> Tensor:
    """Return othersₖ − ownⱼ, (…, j, k), and exactly 0 where k = j."""
    found = others.unsqueeze(-2) - own.unsqueeze(-1)
    same = torch.eye(own.shape[-1], dtype=torch.bool, device=own.device)
    return found.masked_fill(same, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Root(Operation):
    """1 / √x of an operand that is nowhere below `least`: a mean of squares plus a small number.

    No precision rounds such a sum below `least`: limits of the operand that reach lower are cut there.

    >>> step = Root(sources=(0,), shape=(1,), least=0.25)
    >>> [round(float(end), 4) for end in step.limits(torch.tensor([[-1.0]]).double(), torch.tensor([[4.0]]).double())]
    [0.5, 2.0]
    """

    least: float

    def apply(self, *operands: Tensor) -> Tensor:
        """Take the root of the inverse."""
        return operands[0].rsqrt()

    def limits(self, *ends: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values at both ends, rounded outward."""
        low, high = self.cut(*ends)
        grain = 16 * torch.finfo(torch.float64).eps
        return high.rsqrt() * (1 - grain), low.rsqrt() * (1 + grain)

    def cut(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return limits of the operand that are nowhere below `least`; NaN stays."""
        return low.clamp(min=self.least), high.clamp(min=self.least)


@dataclass(frozen=True, kw_only=True, eq=False)
class Centre(Linear):
    """Numbers less their mean over the last axis.

    >>> Centre(sources=(0,), shape=(3,)).apply(torch.tensor([[1.0, 2.0, 6.0]]))
    tensor([[-2., -1.,  3.]])
    """

    def apply(self, *operands: Tensor) -> Tensor:
        """Take the mean off."""
        return operands[0] - operands[0].mean(-1, keepdim=True)

    @property
    def terms(self) -> int:
        """Count what is averaged."""
        return self.shape[-1] + 1

    def absolute(self, *operands: Tensor) -> Tensor:
        """Add the mean to all but an n-th of each number twice: its own weight is 1 − 1/n."""
        return operands[0] * (1 - 2 / self.shape[-1]) + operands[0].mean(-1, keepdim=True)

    def summed(self, *sizes: Tensor) -> Tensor:
        """Add the mean of the magnitudes, which the sum of them exceeds by the count before it is divided."""
        return sizes[0] + sizes[0].mean(-1, keepdim=True)

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Take the mean off: the map is symmetric."""
        return (coefficients - coefficients.mean(-1, keepdim=True),)


@dataclass(frozen=True, kw_only=True, eq=False)
class Spread(Linear):
    """A mean of squares plus a small number; its second operand, what was squared before it was centred, has no weight.

    It is there for what kernels round that sum squares of distances from a mean of which they only know the first
    numbers: (n + c) u (v + √v · mean |x|), and the square of (n + c) u · mean |x|. With `raw` they may take the square
    of the mean off the mean of squares instead, as torch's group norm does of maps whose channels lie last in memory:
    what that rounds is a share of the mean of squares itself, however little of it is left.

    Reference   Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983, table 1.
    """

    extent: Shape
    raw: bool = False

    def apply(self, *operands: Tensor) -> Tensor:
        """Add the small number."""
        assert self.bias is not None
        return operands[0] + self.bias.to(operands[0])

    @property
    def terms(self) -> int:
        """Count the squares, with room for what blocks of them lose when they meet."""
        return self.extent[-1] + 32

    def absolute(self, *operands: Tensor) -> Tensor:
        """Pass the mean of squares on."""
        return operands[0]

    def summed(self, *sizes: Tensor) -> Tensor:
        """Add what the distances from a mean that is rounded are off by."""
        assert self.bias_size is not None
        away = sizes[1].mean(-1, keepdim=True)
        unit = self.terms * torch.finfo(self.dtype or torch.float64).eps
        found = sizes[0] + self.bias_size + 2 * away * sizes[0].sqrt() + unit * away.square()
        return found + 4 * sizes[1].square().mean(-1, keepdim=True) if self.raw else found

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Pass on to the mean of squares."""
        return coefficients, coefficients.new_zeros(()).expand(len(coefficients), *self.extent)


def softmax(translator: Translator, given: Arguments) -> NodeIndex:
    """Write a softmax over any axis but the batch's: that axis is moved to the end and back."""
    index = translator.cast(given["self"])
    count = len(translator.shape) + 1
    axis = given["dim"] % count
    if axis == 0:
        raise translator.refusal("over the batch")
    if axis == count - 1:
        return translator.add(Softmax, index)
    axes = [place for place in range(count) if place != axis] + [axis]
    turned = tuple(translator.shape[place - 1] for place in axes[1:])
    index = translator.add(Arrange, index, extent=translator.shape, shape=turned, axes=tuple(axes))
    index = translator.add(Softmax, index, shape=turned)
    back = tuple(sorted(range(count), key=axes.__getitem__))
    return translator.add(Arrange, index, extent=turned, axes=back)


def _normalised(
    translator: Translator, index: NodeIndex, flat: tuple[int, ...], eps: float, centred: bool, raw: bool = False
) -> NodeIndex:
    """Write numbers (B, *flat) less their mean over the last axis, divided by their deviation, step by step.

    Each step is charged as if it were computed by itself in the module's precision, which rounds more often than the
    one kernel that computes all of them. The mean of squares is nowhere negative in any of them.
    """
    # Kernels of float16 and bfloat16 sum and add in float32.
    if not eps > torch.finfo(torch.float32).smallest_normal:
        raise translator.refusal(f"with an eps of {eps}; a positive one is needed")
    single, given = (*flat[:-1], 1), index
    if centred:
        index = translator.add(Centre, index, shape=flat, peak=float(flat[-1]))
    squares = translator.add(Product, index, index, shape=flat)
    mean = translator.add(Mean, squares, shape=single, axes=(len(flat),), extent=flat)
    shift = torch.tensor(eps, dtype=torch.float64, device=translator.device)
    spread = translator.add(Spread, mean, given, shape=single, extent=flat, bias=shift, bias_size=shift, raw=raw)
    # In bfloat16 eps itself is stored by up to a quarter of a percent lower.
    root = translator.add(Root, spread, shape=single, least=0.99 * eps)
    return translator.add(Product, index, root, shape=flat)


def _arranged(translator: Translator, index: NodeIndex, shape: tuple[int, ...]) -> NodeIndex:
    """Write numbers in another shape, or leave them."""
    extent = translator.extent(index)
    return index if extent == shape else translator.add(Arrange, index, shape=shape, extent=extent)


def _weighed(translator: Translator, index: NodeIndex, weight: Any, bias: Any, axes: int) -> NodeIndex:
    """Write factors and shifts of a normalisation; those of channels are followed by `axes` of one."""
    if weight is None and bias is None:
        return index
    parts = [None if part is None else part.double() for part in (weight, bias)]
    parts = [None if part is None else part.reshape(*part.shape, *[1] * axes) for part in parts]
    scale = torch.ones((), dtype=torch.float64, device=translator.device) if parts[0] is None else parts[0]
    size = None if parts[1] is None else parts[1].abs()
    return translator.add(Scale, index, scale=scale, bias=parts[1], bias_size=size)


def layer_norm(translator: Translator, given: Arguments) -> NodeIndex:
    """Write the norm over the last axes."""
    return _over_last(translator, given, centred=True)


def root_mean_square_norm(translator: Translator, given: Arguments) -> NodeIndex:
    """Write the same without the mean taken off; an eps that is left open hangs on the precision of what comes."""
    if given["eps"] is None:
        given = {**given, "eps": own_eps(translator.operations[given["input"]].dtype or translator.dtype)}
    return _over_last(translator, given, centred=False)


def own_eps(dtype: torch.dtype) -> float:
    """Return what torch adds to a mean of squares where no eps is given: of shorter types that of float32, their sums'.

    >>> own_eps(torch.bfloat16) == torch.finfo(torch.float32).eps
    True
    """
    return torch.finfo(dtype if dtype == torch.float64 else torch.float32).eps


def _over_last(translator: Translator, given: Arguments, centred: bool) -> NodeIndex:
    constant_only(translator, given, "weight", "bias")
    shape, count = translator.shape, len(given["normalized_shape"])
    if count > len(shape):
        raise translator.refusal("over the batch")
    flat = (*shape[: len(shape) - count], math.prod(shape[len(shape) - count :]))
    index = _arranged(translator, translator.cast(given["input"]), flat)
    index = _normalised(translator, index, flat, float(given["eps"]), centred)
    return _weighed(translator, _arranged(translator, index, shape), given["weight"], given.get("bias"), 0)


def group_norm(translator: Translator, given: Arguments) -> NodeIndex:
    """Write the norm over groups of channels."""
    constant_only(translator, given, "weight", "bias")
    shape, groups = translator.shape, int(given["num_groups"])
    flat = (groups, math.prod(shape) // groups)
    index = _arranged(translator, translator.cast(given["input"]), flat)
    index = _normalised(translator, index, flat, float(given["eps"]), centred=True, raw=True)
    return _weighed(translator, _arranged(translator, index, shape), given["weight"], given["bias"], len(shape) - 1)


def _first(rule: Any) -> Any:
    """Return the rule of the form that functional programs hold: the first of its values is the result."""
    return lambda translator, given: (rule(translator, given), None, None)


NORMALISATIONS = {
    **dict.fromkeys(("softmax", "_softmax"), softmax),
    "layer_norm": layer_norm,
    "native_layer_norm": _first(layer_norm),
    "group_norm": group_norm,
    "rms_norm": root_mean_square_norm,
}
