"""Largest difference of two scores of a tree ensemble over a region: interval bounds, then a search over leaves."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustbound.certificates.methods.tree_ensemble import Floats, TreeEnsemble, Whole
from trustbound.certificates.methods.tree_reading import NO_TREES, read_trees
from trustbound.certificates.refuting import Counterexamples
from trustbound.certificates.region import Region
from trustbound.errors import InputError, UnsupportedError
from trustbound.model.wrapping import Model
from trustbound.record.box import Box
from trustbound.tasks.task import Task
from trustbound.threat import Threat


def veritas() -> Any:
    """The library that searches.

    Raises      UnsupportedError with what to install.
    """
    try:
        import veritas as library
    except ImportError as error:
        raise UnsupportedError("no proof: trees are proven with pip install 'trustbound[trees]'") from error
    return library


@dataclass(frozen=True, kw_only=True)
class TreeSearch:
    """Proof for tree ensembles: no leaves that meet inside the region give another class more than the label.

    The trees are cut to the region; the largest leaf of each, added up, settles many examples. Of the others Veritas
    bounds the largest difference by a best-first search over sets of leaves that meet, until the bound is below zero,
    an input that reaches the other class is found, or steps or time are up.

    Bound       Lower, deterministic; a counterexample where the model itself, asked again, confirms one.
    Needs       a fitted scikit-learn forest or gradient boosting, LightGBM or XGBoost model behind the predictor.
    Sets        linf, also with a radius for each column; goals misclassify and target.
    Soundness   thresholds are replaced by their places among those of a feature, so that every comparison is between
                whole numbers; the region is enclosed in float64 and in the float32 that the model is given; what sums
                of leaves round, in float32 for XGBoost, is taken off.
    Shapes      inputs (B, *F), flattened as the model does; labels (B,) int64.
    Cost        per example and class: one pass over the nodes, then up to `steps` steps; no model call but to replay.
    Randomness  none.
    Raises      UnsupportedError for other models, and without the library (extra [trees]).
    Reference   Devos, Meert and Davis, Versatile verification of tree ensembles, 2021 (2010.13880).
    Deviations  none in the search, which is theirs (dtai-veritas); cutting, cells and rounding are ours.

    Parameters
        steps       of the search, for each example and class.
        time_out    seconds for each example, after which it is left unproven.
        memory      bytes of a search.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from trustbound.certificates import certify
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(DecisionTreeClassifier().fit([[0.25], [0.75]], [0, 1]))
    >>> inputs, labels = torch.tensor([[0.2], [0.45], [0.9]]), torch.tensor([0, 0, 1])
    >>> certify("trees", model, inputs, labels, "linf:0.1;access=scores").certified
    tensor([ True, False,  True])
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)

    steps: int = 2_000
    time_out: float = 10.0
    memory: int = 1 << 28

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        for name in ("steps", "memory"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise InputError(f"`{name}` must be a whole number, at least 1; got {getattr(self, name)!r}")
        if not isinstance(self.time_out, int | float) or not 0.0 < self.time_out < math.inf:
            raise InputError(f"`time_out` must be a number of seconds above 0; got {self.time_out!r}")

    def certify(
        self,
        model: nn.Module | Any,
        inputs: Tensor,
        labels: Tensor,
        threat: Threat,
        sizes: Tensor,
        *,
        box: Box,
        batch_size: int | None,
        key: int,
        task: Task,
    ) -> Any:
        """What is proven of inputs (B, *F) that `certify` has checked, to their sizes (B,) and τ."""
        from trustbound.certificates.certifying import CertificationResult

        started = time.perf_counter()
        veritas()
        if not isinstance(model, Model):
            raise UnsupportedError(NO_TREES)
        trees = read_trees(model, inputs)
        model.task.check_fit(labels, (trees.classes,))
        perturbations = threat.perturbations
        if perturbations.per_column:
            perturbations.check(box, tuple(inputs.shape[1:]))
        reach = perturbations.extent(sizes + perturbations.tolerance(box, inputs[0].numel()))
        exact = inputs.detach().cpu().double()
        moved = (exact - inputs.detach().cpu().float().double()).abs()
        wide = reach.reshape(-1, *[1] * (inputs.ndim - 1)) if reach.ndim == 1 else reach
        region = Region.around(inputs.detach().cpu(), box, "linf", wide.expand(inputs.shape) + moved)
        goals = threat.goal.bind(labels, trees.classes).targets
        broken = Counterexamples(model, inputs, labels, threat, sizes, box, trees.classes)
        margin = torch.full((len(inputs),), math.nan, dtype=torch.float64)
        low, high = _enclosed(trees, region)
        for row in range(len(inputs)):
            label = int(labels[row])
            others = [name for name in range(trees.classes) if name != label]
            if goals is not None:
                others = [] if int(goals[row]) == label else [int(goals[row])]
            if others:
                margin[row] = self._margin(trees, low[row], high[row], label, others, row, broken)
        slack = torch.full_like(margin, trees.error).masked_fill(margin.isnan(), math.nan)
        return CertificationResult(
            name="trees",
            certified=margin > trees.error,
            margin=margin,
            slack=slack,
            seconds=time.perf_counter() - started,
            falsified=broken.found.cpu() & ~(margin > trees.error),
            witness=broken.points,
        )

    def _margin(
        self, trees: TreeEnsemble, low: Whole, high: Whole, label: int, others: list[int], row: int, broken: Any
    ) -> float:
        """A lower bound of (score of the label − the largest of some others) over cells between two rows."""
        deadline = time.perf_counter() + self.time_out
        reached = trees.reached(low, high)
        most = {other: _added_up(trees, reached, label, other) for other in others}
        for other in sorted(others, key=lambda name: -most[name]):
            if most[other] < -trees.error:
                break  # so are all that follow
            search = _Search(trees, reached, label, other, self.memory)
            most[other] = min(most[other], search.run(self.steps, deadline, -trees.error))
            if search.found is not None:
                point = _point(trees, search.found, broken.inputs[row], low, high)
                if broken.replay(row, point.reshape(1, *broken.inputs.shape[1:])):
                    break
            elif most[other] > trees.error:
                break  # steps or time are up: the others cannot help to a proof
        return -max(most.values())


def _enclosed(trees: TreeEnsemble, region: Region) -> tuple[Whole, Whole]:
    """The cells in which the limits of a region lie, as numbers of float64 and as the float32 that a model is given."""
    limits = (region.low.flatten(1), region.high.flatten(1))
    exact = [trees.cells(limit.numpy()) for limit in limits]
    given = [trees.cells(limit.float().double().numpy()) for limit in limits]
    return np.minimum(exact[0], given[0]), np.maximum(exact[1], given[1])


def _difference(trees: TreeEnsemble, label: int, other: int) -> Floats:
    return np.asarray(trees.nodes.value[:, other] - trees.nodes.value[:, label])


def _added_up(trees: TreeEnsemble, reached: NDArray[np.bool_], label: int, other: int) -> float:
    """The largest leaf of each tree, added up: no input has a larger difference."""
    leaves = np.where(reached & ~trees.nodes.inner, _difference(trees, label, other), -np.inf)
    best = np.maximum.reduceat(leaves, trees.nodes.roots)
    return float(best.sum() + trees.base[other] - trees.base[label])


class _Search:
    """Veritas on the trees that a region leaves, for the difference of two classes."""

    def __init__(self, trees: TreeEnsemble, reached: NDArray[np.bool_], label: int, other: int, memory: int) -> None:
        library, nodes = veritas(), trees.nodes
        value = _difference(trees, label, other)
        self.base = float(trees.base[other] - trees.base[label])
        self.found: dict[int, tuple[float, float]] | None = None
        ensemble = library.AddTree(1, library.AddTreeType.REGR)
        count = 0
        for root in nodes.roots.tolist():
            first = _next(nodes, reached, root)
            if not nodes.inner[first]:
                self.base += float(value[first])
                continue
            count += 1
            tree = ensemble.add_tree()
            waiting = [(tree.root(), first)]
            while waiting:
                place, node = waiting.pop()
                if not nodes.inner[node]:
                    tree.set_leaf_value(place, 0, float(value[node]))
                    continue
                tree.split(place, int(nodes.feature[node]), float(nodes.place[node] + 1))
                waiting.append((tree.left(place), _next(nodes, reached, int(nodes.left[node]))))
                waiting.append((tree.right(place), _next(nodes, reached, int(nodes.right[node]))))
        self.search = None
        if count:
            config = library.Config(library.HeuristicType.MAX_OUTPUT)
            config.stop_when_optimal = True
            config.max_memory = memory
            self.search, self.ended = config.get_search(ensemble), library.StopReason.NONE

    def run(self, steps: int, deadline: float, wanted: float) -> float:
        """An upper bound of the difference: stops once it is below what is wanted, or one above it is found."""
        if self.search is None:
            self.found = {} if self.base > 0.0 else None
            return self.base
        bound, done = math.inf, 0
        while done < steps and time.perf_counter() < deadline:
            reason = self.search.steps(min(200, steps - done))
            done += 200
            bound = float(self.search.current_bounds().best) + self.base
            if self.search.num_solutions() and float(self.search.get_solution(0).output) + self.base > 0.0:
                self.found = {feature: (one.lo, one.hi) for feature, one in self.search.get_solution(0).box().items()}
                break
            if bound < wanted or reason != self.ended:
                break
        return bound


def _next(nodes: Any, reached: NDArray[np.bool_], node: int) -> int:
    """The first node from here that the region parts, or a leaf."""
    while nodes.inner[node]:
        left, right = int(nodes.left[node]), int(nodes.right[node])
        if reached[left] and reached[right]:
            return node
        node = left if reached[left] else right
    return node


def _point(trees: TreeEnsemble, box: dict[int, tuple[float, float]], inputs: Tensor, low: Whole, high: Whole) -> Tensor:
    """An input of the region in the cells of a solution, each value as near to the clean one as its cell allows."""
    point = inputs.detach().cpu().double().flatten().clone()
    own = trees.cells(point[None].numpy())[0]
    for feature, (first, last) in box.items():
        least = max(int(low[feature]), 0 if not math.isfinite(first) or first < 0 else math.ceil(first))
        most = min(int(high[feature]), int(high[feature]) if not math.isfinite(last) else math.ceil(last) - 1)
        cell = min(max(int(own[feature]), least), most)
        if cell != own[feature]:
            point[feature] = trees.value_in(feature, cell, float(point[feature]))
    return point
