"""Whether decision trees out of a file are trees at all: their compiled code follows any number that it is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

#: Types of scikit-learn that skops does not vouch for, and that are harmless once `damage` finds nothing.
CHECKED = frozenset(
    {
        "sklearn.tree._tree.Tree",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    }
)


def damage(model: Any) -> str:
    """What is wrong with a tree somewhere in a model of scikit-learn, in words; empty where nothing is.

    Nodes must lead to later nodes of their own tree and ask about features that there are: then no walk down a tree
    leaves its memory or goes on for ever.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> damage(DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1]))
    ''
    """
    for tree, features in _trees(model, np.iinfo(np.int64).max, set()):
        if type(tree).__name__ == "Tree":
            left, right, asked = tree.children_left, tree.children_right, tree.feature
            inner, features = left != -1, min(features, tree.n_features)
            if bool((inner != (right != -1)).any()):
                return "a node has one child"
        else:
            nodes = tree.nodes
            left, right, asked = (nodes[name].astype(np.int64) for name in ("left", "right", "feature_idx"))
            inner = nodes["is_leaf"] == 0
            sets = min(len(tree.binned_left_cat_bitsets), len(tree.raw_left_cat_bitsets))
            if bool((nodes["bitset_idx"][(nodes["is_categorical"] != 0) & inner] >= sets).any()):
                return "a node asks about categories that are not there"
        own = np.arange(len(left))[inner]
        if not len(left):
            return "a tree has no node"
        for child in (left[inner], right[inner]):
            if bool(((child <= own) | (child >= len(left))).any()):
                return "a node leads out of its tree, or back"
        if bool(((asked[inner] < 0) | (asked[inner] >= features)).any()):
            return "a node asks about a feature that is not there"
    return ""


def _trees(held: Any, features: int, seen: set[int]) -> Iterator[tuple[Any, int]]:
    """Every tree that an object holds, with the features that the ensembles around it take."""
    if id(held) in seen:
        return
    seen.add(id(held))
    module, name = type(held).__module__, type(held).__name__
    if f"{module}.{name}" in CHECKED and hasattr(held, "nodes" if name == "TreePredictor" else "children_left"):
        yield held, features
        return
    if module.startswith(("sklearn.ensemble", "sklearn.tree")):
        features = min(features, int(getattr(held, "n_features_in_", features)))
    if isinstance(held, np.ndarray):
        inner = held.ravel().tolist() if held.dtype.hasobject else []
    elif isinstance(held, dict):
        inner = list(held.values())
    elif isinstance(held, list | tuple | set):
        inner = list(held)
    else:
        inner = list(getattr(held, "__dict__", {}).values())
    for one in inner:
        yield from _trees(one, features, seen)
