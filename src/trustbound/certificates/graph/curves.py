"""Smooth activations: scalar functions applied to each number, and what a proof needs to know of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trustbound.certificates.graph.operations import Operation

#: Unit roundoffs that a kernel may be off by, for 1 + |x|; the worst that was seen is 4.5, of GELU in float32.
ROUNDOFFS = 16
#: The largest threshold of a softplus that is read.
MOST_THRESHOLD = 80.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A function of one number with a continuous derivative.

    function    elementwise, for any floating dtype.
    steepness   |f'| is nowhere above it, so that |f(x)| ≤ |f(0)| + steepness · |x|; |f(0)| is at most 1.
    bend        |f''| is nowhere above it, where there is one.
    turn        where f turns from falling to rising; None where it never falls.
    crest       where f is 1, once in 2π, half of which further it is −1; None where it is no wave.
    jump        how far the kernel may be from the function beside its rounding.
    """

    function: Callable[[Tensor], Tensor]
    steepness: float
    bend: float
    turn: float | None = None
    crest: float | None = None
    jump: float = 0.0

    @property
    def falls(self) -> bool:
        """Whether f falls anywhere."""
        return self.turn is not None or self.crest is not None

    def roundoff(self, sizes: Tensor, dtype: torch.dtype) -> Tensor:
        """Bound what the kernel of a type is off by at numbers of at most these magnitudes."""
        kind = torch.finfo(dtype)
        off = ROUNDOFFS * kind.eps / 2 * (1 + sizes) + self.jump + ROUNDOFFS * kind.smallest_normal
        return off.masked_fill(sizes >= kind.max / 8, torch.inf)


@dataclass(frozen=True, kw_only=True, eq=False)
class Smooth(Operation):
    """A smooth activation.

    >>> step = Smooth(sources=(0,), shape=(1,), curve=SILU)
    >>> low, high = step.limits(torch.tensor([[-3.0]]).double(), torch.tensor([[1.0]]).double())
    >>> round(float(low), 4), round(float(high), 4)
    (-0.2785, 0.7311)
    """

    curve: Curve

    def apply(self, *operands: Tensor) -> Tensor:
        """Apply the function."""
        return self.curve.function(operands[0])

    def limits(self, *limits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest value between two limits, rounded outward."""
        low, high = limits
        ends = self.apply(low), self.apply(high)
        least, most = torch.minimum(*ends), torch.maximum(*ends)
        if self.curve.crest is not None:
            most = most.masked_fill(_meets(low, high, self.curve.crest), 1.0)
            least = least.masked_fill(_meets(low, high, self.curve.crest + math.pi), -1.0)
        if self.curve.turn is not None:
            turn = torch.full_like(low, self.curve.turn)
            least = torch.where((low < turn) & (turn < high), self.apply(turn), least)
        slack = self.curve.roundoff(torch.maximum(low.abs(), high.abs()), low.dtype)
        return least - slack, most + slack


def _meets(low: Tensor, high: Tensor, place: float) -> Tensor:
    """Say where a place that comes again each 2π may lie between two limits, or beside them by rounding."""
    room = 1e-12 * (1 + torch.maximum(low.abs(), high.abs()))
    first, last = ((limit - place) / (2 * math.pi) for limit in (low - room, high + room))
    return last.floor() >= first.ceil()


def _softplus(beta: float, threshold: float) -> Callable[[Tensor], Tensor]:
    return lambda values: F.softplus(values, beta, threshold)


def softplus(beta: float, threshold: float) -> Curve | None:
    """Return log(1 + exp(β x)) / β; beyond its threshold torch returns x itself.

    None for a β at which |f(0)| = log 2 / β is above 1, and for a threshold below which a kernel overflows: exp in
    float32 does so at 88.7.
    """
    if not beta > 0.7 or not 0 < threshold <= MOST_THRESHOLD:
        return None
    jump = float(F.softplus(torch.tensor(-threshold, dtype=torch.float64))) / beta * 1.001
    return Curve(function=_softplus(beta, threshold), steepness=1.0, bend=beta / 4, jump=jump)


#: Largest second derivatives: σ'' at σ = (3 ± √3) / 6, tanh'' at tanh = 1 / √3, GELU'' and SiLU'' at 0, ELU'' at 0⁻.
SIGMOID = Curve(function=torch.sigmoid, steepness=0.25, bend=0.0963)
TANH = Curve(function=torch.tanh, steepness=1.0, bend=0.77)
SILU = Curve(function=F.silu, steepness=1.1, bend=0.5, turn=-1.2784645427610738)
SINE = Curve(function=torch.sin, steepness=1.0, bend=1.0, crest=math.pi / 2)
COSINE = Curve(function=torch.cos, steepness=1.0, bend=1.0, crest=0.0)
ELU = Curve(function=F.elu, steepness=1.0, bend=1.0)
GELU = Curve(function=F.gelu, steepness=1.13, bend=0.798, turn=-0.7517915246935645)
#: The approximation of GELU by tanh: its derivatives were bounded on a grid, and the tests do so again.
GELU_TANH = Curve(
    function=lambda values: F.gelu(values, approximate="tanh"), steepness=1.131, bend=0.82, turn=-0.7524614220710162
)
