"""Steps that compute nothing: numbers picked from their operand, and numbers stored in another precision."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from trustbound.certificates.graph.operations import Linear, Scale, Shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Gather(Linear):
    """Picked entries of the operand: slices, selections, repetitions, padding. `index` has the step's own shape.

    An index of −1 takes the constant that stands in `bias` there, 0 without one. `extent` is the operand's shape.

    >>> index = torch.tensor([2, -1, 0])
    >>> picked = Gather(sources=(0,), shape=(3,), extent=(4,), index=index, bias=torch.tensor([0.0, 9.0, 0.0]))
    >>> picked.apply(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    tensor([[3., 9., 1.]])
    """

    extent: Shape
    index: Tensor
    _repeats: int = field(init=False)

    def __post_init__(self) -> None:
        taken = self.index[self.index >= 0]
        object.__setattr__(self, "_repeats", int(torch.bincount(taken).max()) if len(taken) else 0)

    def apply(self, *operands: Tensor) -> Tensor:
        """Pick."""
        filled = torch.zeros((), dtype=torch.float64) if self.bias is None else self.bias
        return self._pick(operands[0], filled.to(operands[0]))

    @property
    def repeats(self) -> int:
        """How often one entry is taken at most."""
        return self._repeats

    @property
    def terms(self) -> int:
        """Count what the transpose sums; picking sums nothing."""
        return self._repeats if self._repeats > 1 else 0

    def absolute(self, *operands: Tensor) -> Tensor:
        """Pick; constants count as 0."""
        return self._pick(operands[0], operands[0].new_zeros(()))

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Add every coefficient to the entry that was picked."""
        flat, kept = self.index.flatten(), self.index.flatten() >= 0
        count = 1
        for side in self.extent:
            count *= side
        whole = coefficients.new_zeros(len(coefficients), count)
        whole.index_add_(1, flat[kept], coefficients.flatten(1)[:, kept])
        return (whole.reshape(-1, *self.extent),)

    def _pick(self, operand: Tensor, filled: Tensor) -> Tensor:
        picked = operand.flatten(1)[:, self.index.clamp(min=0).flatten()].unflatten(1, self.index.shape)
        return torch.where(self.index >= 0, picked, filled)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cast(Scale):
    """The same numbers stored in another precision, which is the step's `dtype`; `origin` is the one before.

    >>> step = Cast.of(0, (2,), "forward", torch.float32, torch.bfloat16)
    >>> step.exact, Cast.of(0, (2,), "forward", torch.bfloat16, torch.float32).exact
    (False, True)
    """

    origin: torch.dtype

    @classmethod
    def of(cls, source: int, shape: Shape, where: str, origin: torch.dtype | None, dtype: torch.dtype | None) -> Cast:
        """Make the step that stores what was `origin` as `dtype`."""
        assert origin is not None  # the steps of a module all have a precision
        one = torch.ones((), dtype=torch.float64)
        return cls(sources=(source,), shape=shape, where=where, scale=one, origin=origin, dtype=dtype)

    @property
    def exact(self) -> bool:
        """Whether every number of the origin is one of the target: nothing is rounded, nothing overflows."""
        if self.dtype is None:
            return True
        old, new = torch.finfo(self.origin), torch.finfo(self.dtype)
        return new.eps <= old.eps and new.max >= old.max and new.smallest_normal <= old.smallest_normal

    @property
    def terms(self) -> int:
        """Nothing is summed."""
        return 0

    def apply(self, *operands: Tensor) -> Tensor:
        """Pass on."""
        return operands[0]

    def absolute(self, *operands: Tensor) -> Tensor:
        """Pass on."""
        return operands[0]

    def transpose(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Pass on."""
        return (coefficients,)
