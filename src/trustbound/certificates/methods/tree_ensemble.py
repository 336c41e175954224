"""A sum of decision trees as arrays, with each threshold's place in the order of its feature's thresholds.

What a tree asks of a number is on which side of a threshold it lies. So a feature's values fall into cells between
thresholds, and everything here is said in numbers of cells, which are whole: no comparison of floating-point numbers is
left to whoever searches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """One tree: node 0 is the root, children come after their parents; leaves have `left` -1.

    Shapes      left, right, feature (n,) int64; threshold (n,), value (n, C) float64, of leaves.
    """

    left: Whole
    right: Whole
    feature: Whole
    threshold: Floats
    value: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class TreeEnsemble:
    """Scores (B, C): `base` and the values of the leaves that an input ends in, added up.

    Parameters
        strict      an input goes left where it is less than the threshold; else where it is at most that.
        base        (C,).
        error       how far rounding may take the difference of two scores from its value, as the library computes it.
        link        "share": probabilities are proportional to scores; "softmax": to their exponentials.
        features    how many an input has.
        zeroed      numbers up to this size are taken for 0, before they are compared.

    >>> stump = Tree(
    ...     left=np.array([1, -1, -1]),
    ...     right=np.array([2, -1, -1]),
    ...     feature=np.array([0, -1, -1]),
    ...     threshold=np.array([0.5, 0.0, 0.0]),
    ...     value=np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
    ... )
    >>> made = TreeEnsemble(trees=[stump], strict=False, base=np.zeros(2), error=0.0, link="share", features=1)
    >>> made.scores(np.array([[0.5], [0.6]])).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    trees: Sequence[Tree]
    strict: bool
    base: Floats
    error: float
    link: str
    features: int
    zeroed: float = 0.0

    @property
    def classes(self) -> int:
        """How many scores there are."""
        return len(self.base)

    @cached_property
    def thresholds(self) -> list[Floats]:
        """Of each feature, rising."""
        asked = np.concatenate([tree.feature for tree in self.trees])
        value = np.concatenate([tree.threshold for tree in self.trees])
        return [np.unique(value[asked == feature]) for feature in range(self.features)]

    @cached_property
    def nodes(self) -> Nodes:
        """All trees behind one another."""
        starts = np.cumsum([0, *(len(tree.left) for tree in self.trees)])
        inner = np.concatenate([tree.left >= 0 for tree in self.trees])
        left, right = (
            np.concatenate(
                [
                    np.where(tree.left >= 0, getattr(tree, side) + start, -1)
                    for tree, start in zip(self.trees, starts[:-1], strict=True)
                ]
            )
            for side in ("left", "right")
        )
        feature = np.concatenate([tree.feature for tree in self.trees])
        threshold = np.concatenate([tree.threshold for tree in self.trees])
        place = np.full(len(left), -1)
        for number, known in enumerate(self.thresholds):
            own = inner & (feature == number)
            place[own] = np.searchsorted(known, threshold[own])
        depth = np.zeros(len(left), dtype=np.int64)
        for node in np.flatnonzero(inner):  # parents come first
            depth[[left[node], right[node]]] = depth[node] + 1
        levels = [np.flatnonzero(inner & (depth == level)) for level in range(int(depth.max()) + 1)]
        return Nodes(
            roots=starts[:-1],
            inner=inner,
            left=left,
            right=right,
            feature=feature,
            place=place,
            value=np.concatenate([tree.value for tree in self.trees]),
            levels=[level for level in levels if len(level)],
        )

    def cells(self, inputs: Any) -> Whole:
        """In which cell each value lies, (B, F): how many thresholds of its feature send it right."""
        side: Literal["left", "right"] = "right" if self.strict else "left"
        values = np.asarray(inputs, dtype=np.float64)
        values = np.where(np.abs(values) <= self.zeroed, 0.0, values)
        columns = [np.searchsorted(known, values[:, j], side=side) for j, known in enumerate(self.thresholds)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(values), 0), dtype=np.int64)

    def reached(self, low: Whole, high: Whole) -> NDArray[np.bool_]:
        """The nodes that an input whose cells lie between two rows (F,) can come to."""
        nodes = self.nodes
        found = np.zeros(len(nodes.left), dtype=bool)
        found[nodes.roots] = True
        for level in nodes.levels:
            feature, place, here = nodes.feature[level], nodes.place[level], found[level]
            found[nodes.left[level]] = here & (low[feature] <= place)
            found[nodes.right[level]] = here & (high[feature] > place)
        return found

    def scores(self, inputs: Any) -> Floats:
        """What the ensemble computes, in float64: (B, C)."""
        leaves = ~self.nodes.inner
        rows = [self.base + self.nodes.value[self.reached(at, at) & leaves].sum(axis=0) for at in self.cells(inputs)]
        return np.array(rows).reshape(-1, self.classes)

    def value_in(self, feature: int, cell: int, below: float) -> float:
        """The float32 number nearest to another in a cell of a feature: the edge of the cell on its side.

        `below` is a number whose own cell is another.
        """
        known = self.thresholds[feature]
        upwards = below < known[cell - 1] if cell else False
        upwards = upwards or bool(cell and below == known[cell - 1])
        edge = known[cell - 1] if upwards else known[cell]
        value = np.float32(edge)
        towards = np.float32(np.inf if upwards else -np.inf)
        for _ in range(4):
            if int(np.searchsorted(known, float(value), side="right" if self.strict else "left")) == cell:
                break
            value = np.nextafter(value, towards)
        return float(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Nodes:
    """Nodes of all trees: `place` is that of the threshold in its feature's order, so that cells ≤ place go left."""

    roots: Whole
    inner: NDArray[np.bool_]
    left: Whole
    right: Whole
    feature: Whole
    place: Whole
    value: Floats
    levels: list[Whole]
