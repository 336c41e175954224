"""The columns of a table: their names, and the units that their values give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustbound.errors import InputError


@dataclass(frozen=True)
class Columns:
    """Name, smallest and largest value and standard deviation of each column, of all rows that were read.

    >>> Columns.of(np.array([[0.0, 1.0], [2.0, 1.5]]), ["age", "height"])
    Columns(names=('age', 'height'), low=(0.0, 1.0), high=(2.0, 1.5), std=(1.0, 0.25))
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, values: Any, names: Sequence[str] | None = None) -> Columns:
        """Of values (N, F), in float64; columns without a name are called "column 0", "column 1" …

        Raises      InputError for values of another shape, and for another number of names.
        """
        table = np.asarray(values, dtype=np.float64)
        if table.ndim != 2 or not len(table):
            raise InputError(f"columns belong to tables of shape (N, F); got shape {table.shape}")
        called = [f"column {number}" for number in range(table.shape[1])] if names is None else list(map(str, names))
        if len(called) != table.shape[1] or len(set(called)) != len(called):
            raise InputError(f"each of the {table.shape[1]} columns needs a name of its own; got {called}")
        low, high, std = table.min(axis=0), table.max(axis=0), table.std(axis=0)
        return cls(tuple(called), *(tuple(map(float, row)) for row in (low, high, std)))

    def __len__(self) -> int:
        return len(self.names)
