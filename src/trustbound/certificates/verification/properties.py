"""What a property asks: boxes of inputs, and the unsafe outputs that none of them may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Unsafe:
    """A set of outputs: those with rows · outputs ≤ limits in every row.

    Shapes      rows (K, M), limits (K,), float64.

    >>> corner = Unsafe(rows=torch.eye(2).double(), limits=torch.zeros(2).double())
    >>> corner.margins(torch.tensor([[-1.0, -2.0], [-1.0, 3.0]]).double())
    tensor([-1.,  3.], dtype=torch.float64)
    """

    rows: Tensor
    limits: Tensor

    def margins(self, outputs: Tensor) -> Tensor:
        """How far outputs (B, M) are from the set, by the row that they violate most: (B,); not above 0 inside."""
        if not len(self.rows):
            return outputs.new_full((len(outputs),), -torch.inf)
        found: Tensor = (outputs @ self.rows.T - self.limits).amax(1)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """One box of inputs, and several unsafe sets: no input between `low` and `high` (N,) may have outputs in one."""

    low: Tensor
    high: Tensor
    unsafe: tuple[Unsafe, ...]

    def margins(self, outputs: Tensor) -> Tensor:
        """How far outputs (B, M) are from the nearest of the unsafe sets: (B,)."""
        return torch.stack([one.margins(outputs) for one in self.unsafe]).amin(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Property:
    """What is asked of a network of `inputs` numbers and `outputs` numbers: it holds where every query does.

    >>> Property.robust(torch.tensor([0.5, 0.5]), 0.1, label=1, classes=3).queries[0].unsafe[1].rows
    tensor([[ 0.,  1., -1.]], dtype=torch.float64)
    """

    inputs: int
    outputs: int
    queries: tuple[Query, ...]

    def __post_init__(self) -> None:
        for query in self.queries:
            sides = (query.low, query.high)
            if any(side.shape != (self.inputs,) or side.dtype != torch.float64 for side in sides):
                raise InputError(
                    f"limits must be float64 of shape ({self.inputs},); got "
                    f"{', '.join(f'{tuple(side.shape)} {side.dtype}' for side in sides)}"
                )
            if not bool((query.low <= query.high).all()):
                raise InputError("limits must be numbers, no lower one above the upper; some are not")
            for one in query.unsafe:
                count = len(one.limits)
                if one.rows.shape != (count, self.outputs) or {one.rows.dtype, one.limits.dtype} != {torch.float64}:
                    raise InputError(
                        f"an unsafe set needs rows (K, {self.outputs}) and limits (K,), float64; got "
                        f"{tuple(one.rows.shape)} {one.rows.dtype} and {tuple(one.limits.shape)} {one.limits.dtype}"
                    )
                if not bool(one.rows.isfinite().all() and one.limits.isfinite().all()):
                    raise InputError("rows and limits of an unsafe set must be finite; some are not")

    @classmethod
    def robust(
        cls, inputs: Tensor, epsilon: float, *, label: int, classes: int, box: tuple[float, float] = (0.0, 1.0)
    ) -> Property:
        """No input within `epsilon` of this one, and in the box, has another class's logit as large as its own."""
        flat = inputs.double().flatten()
        low, high = (flat - epsilon).clamp(*box), (flat + epsilon).clamp(*box)
        unsafe = []
        for other in range(classes):
            if other != label:
                row = torch.zeros(1, classes, dtype=torch.float64)
                row[0, label], row[0, other] = 1.0, -1.0
                unsafe.append(Unsafe(rows=row, limits=torch.zeros(1, dtype=torch.float64)))
        query = Query(low=low, high=high, unsafe=tuple(unsafe))
        return cls(inputs=flat.numel(), outputs=classes, queries=(query,))

    def check_fits(self, features: Sequence[int], outputs: int) -> None:
        """Refuse a network with other numbers of inputs or outputs."""
        count = 1
        for size in features:
            count *= size
        if (count, outputs) != (self.inputs, self.outputs):
            raise InputError(
                f"the property must speak of the network's numbers: it declares {self.inputs} inputs and "
                f"{self.outputs} outputs; the network has {count} and {outputs}. Take the property "
                "that was written for it."
            )

    def check_within(self, dtype: torch.dtype) -> None:
        """Refuse limits of inputs that a precision does not hold."""
        for query in self.queries:
            if not bool((query.low.to(dtype).isfinite() & query.high.to(dtype).isfinite()).all()):
                most = float(torch.maximum(query.low.abs(), query.high.abs()).max())
                raise InputError(
                    f"the limits of inputs must be finite numbers of the network's precision, {dtype}; got "
                    f"up to {most:g}"
                )

    def text(self) -> str:
        """The property as a VNN-LIB file."""
        lines = [
            f"(declare-const {name}_{place} Real)"
            for name, count in (("X", self.inputs), ("Y", self.outputs))
            for place in range(count)
        ]
        queries = []
        for query in self.queries:
            sides = [
                f"(>= X_{at} {low!r}) (<= X_{at} {high!r})"
                for at, (low, high) in enumerate(zip(query.low.tolist(), query.high.tolist(), strict=True))
            ]
            sets = [
                f"(and {' '.join(_row(row, limit) for row, limit in zip(one.rows, one.limits, strict=True))})"
                for one in query.unsafe
            ]
            queries.append(f"(and {' '.join(sides)} (or {' '.join(sets)}))")
        return "\n".join([*lines, f"(assert (or {' '.join(queries)}))", ""])


def _row(row: Tensor, limit: Tensor) -> str:
    terms = " ".join(f"(* {value!r} Y_{place})" for place, value in enumerate(row.tolist()) if value)
    return f"(<= (+ {terms}) {float(limit)!r})"
