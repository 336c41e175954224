"""A smaller set with the same class proportions, drawn before anything is decoded."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trustbound.errors import InputError


def draw_stratified(labels: ArrayLike, limit: int | None, seed: int = 0) -> NDArray[np.int64]:
    """Choose `limit` rows so that every class keeps its share, and return them in their old order.

    Method      largest remainders (Hamilton): each class gets the whole part of limit · share, the seats that
                are left go to the largest remainders, ties by lot. Each count is within 1 of limit · share.
    Shapes      labels (N,); returns row numbers, increasing, min(limit, N) of them.
    Randomness  a local numpy generator made of `seed`; nothing global is read or changed.
    Raises      InputError when `limit` is below 1.

    >>> labels = [0] * 60 + [1] * 30 + [2] * 10
    >>> rows = draw_stratified(labels, 10, seed=7)
    >>> [int((np.array(labels)[rows] == c).sum()) for c in range(3)]
    [6, 3, 1]
    """
    labels = np.asarray(labels)
    total = len(labels)
    if limit is not None and (isinstance(limit, bool | str) or int(limit) != limit or limit < 1):
        raise InputError(f"`limit` must be a whole number of examples, at least 1; got {limit!r}")
    if limit is None or limit >= total:
        return np.arange(total, dtype=np.int64)
    random = np.random.default_rng(seed)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # Whole numbers throughout: limit · count = seats · total + remainder, exactly.
    seats, remainders = np.divmod(counts.astype(np.int64) * int(limit), total)
    left = int(limit) - int(seats.sum())
    lots = random.permutation(len(counts))
    seats[np.lexsort((lots, -remainders))[:left]] += 1
    chosen = [
        random.choice(np.flatnonzero(classes == c), size=int(seats[c]), replace=False) for c in range(len(counts))
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
