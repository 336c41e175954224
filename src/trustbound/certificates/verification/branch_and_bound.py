"""Complete verification of ReLU networks: split ReLUs, bound both halves, until all is proven or a point is found."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.methods.alpha_crown import AlphaCrown
from trustbound.certificates.region import Region
from trustbound.certificates.specification import Certifier, LowerBound, Refuter
from trustbound.certificates.verification.domains import Tree
from trustbound.certificates.verification.narrowed_splitting import NarrowedSplitting
from trustbound.certificates.verification.relu_splitting import ReluSplitting
from trustbound.certificates.verification.roots import Root, roots, together
from trustbound.errors import InputError
from trustbound.tasks.task import Task

#: Of an example's time, the share after which its limits are left as they are.
SHARE = 1 / 2


@dataclass(frozen=True, kw_only=True, eq=False)
class BranchAndBound(Certifier):
    """Split unstable ReLUs into active and inactive until each part is proven, or a point breaks the example.

    Bound       Lower. Deterministic: holds for every input of the region; never below `alpha-crown`. Complete for ReLU
                and leaky ReLU networks under linf, given time: what it does not prove, to rounding, it refutes. Stopped
                early it returns the smallest bound of all parts, and the example is unknown.
    Needs       a network that can be read into a list of operations.  Norms: linf, l2, l1, l0.
    Update      the parts with the smallest bounds are split first, many together; of each the neuron is split whose
                halves have the best bounds. Known signs enter the bound by multipliers β ≥ 0, which are climbed
                together with the lower slopes, in float32 and warm from the part before; every bound that counts is
                evaluated in float64. Where every ReLU is split, the dual of a linear programme gives the multipliers.
                What the first `quick` parts do not decide begins anew, row by row, with limits of each part's own:
                those of all unstable neurons where the row is not positive, swept until they gain no more.
    Shapes      region (B, *F); specification (B, K, C); returns (B, K) float64.
    Cost        that of `alpha-crown`; then, for each example that it leaves open, at most `timeout` seconds: a pair of
                parts takes about 2 `candidates` + 6 `steps` backward passes of one row, and a sweep counts as the
                parts that cost as much.
    Randomness  none; with a timeout, what is proven hangs on the clock.
    Raises      InputError for parameters out of range.
    Reference   Wang et al., Beta-CROWN: Efficient Bound Propagation with Per-neuron Split Constraints, 2021,
                arXiv:2103.06624, theorem 3.1; Bunel et al., Branch and Bound for Piecewise Linear Neural Network
                Verification, 2020, arXiv:1909.06588; De Palma et al., Improved Branch and Bound for Neural Network
                Verification via Lagrangian Decomposition, 2021, arXiv:2104.06718, section 5 (filtered branching);
                Kotha et al., Provably Bounding Neural Network Preimages, 2023, arXiv:2302.01404, section 3 (limits
                under constraints on the output).
    Deviations  candidates are filtered by what their line costs at the point where the bound is least; limits of
                neurons are those of the whole region, or of the part where its row is not positive, and what the
                latter prove of a margin is at most a small threshold, whatever the margin is; a part without unsplit
                ReLUs is solved by a linear programme of which only the multipliers are taken. Max pools are not
                split. Tasks whose margin is not that of classes, and rows asked for one by one, have the bound of
                `alpha-crown`.

    Parameters
        timeout     seconds for an example that bounds alone leave open, its limits included, which take about half of
                    them at most; infinity for no limit.
        max_nodes   parts of an example, at most.
        steps       ascent steps for a part.
        candidates  neurons of which both halves are tried before one is split.
        quick       parts that are bounded with the limits of the whole before limits are narrowed in each.

    >>> from trustbound.certificates.graph import read
    >>> _ = torch.manual_seed(39)
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> inputs = torch.tensor([[0.5, 0.5]])
    >>> graph, label = read(network, inputs), network(inputs).argmax(1)
    >>> region = Region.around(inputs, (0.0, 1.0), "linf", 0.5)
    >>> [bool(kind().margins(graph, region, label).proven) for kind in (AlphaCrown, BranchAndBound)]
    [False, True]
    """

    refutes: ClassVar[bool] = True

    timeout: float = 60.0
    max_nodes: int = 100_000
    steps: int = 5
    candidates: int = 8
    quick: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_nodes", "steps", "candidates", "quick"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise InputError(f"`{name}` must be a whole number ≥ 1; got {getattr(self, name)!r}")
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not self.timeout >= 0:
            raise InputError(f"`timeout` must be a number of seconds ≥ 0; got {self.timeout!r}")

    def bound(self, graph: Graph, region: Region, specification: Tensor, least: bool) -> LowerBound:
        """Bound ⟨row, logits⟩ for a few examples; with `least` only the smallest of each counts, and is branched on."""
        bound = AlphaCrown(memory=self.memory).bound(graph, region, specification, least).separate()
        open_ = (~bound.proven).any(1).nonzero()[:, 0] if least else bound.proven.new_zeros(0, dtype=torch.int64)
        for row, root, ends in self._begun(graph, region, specification, open_):
            found = self._branched(root, None, ends)
            bound.value[row] = torch.fmax(bound.value[row], found.value)
            bound.run[row] = torch.fmax(bound.run[row], found.run)
        return bound

    def settle(
        self, graph: Graph, region: Region, labels: Tensor, targets: Tensor | None, task: Task, refuter: Refuter
    ) -> LowerBound:
        """Bound the margins; what α-CROWN leaves open is attacked, and branched on where that finds nothing."""
        bound = AlphaCrown(memory=self.memory).margins(graph, region, labels, targets, task).separate()
        required = task.requirement(labels, graph.classes, targets)
        open_ = (~bound.proven).nonzero()[:, 0]
        if required.shift is not None or not len(open_):
            return bound
        for row, root, ends in self._begun(graph, region, required.rows, open_[~refuter.attack(open_)]):
            found = self._branched(root, functools.partial(refuter.replay, row), ends)
            bound.value[row] = torch.fmax(bound.value[row], found.value.amin())
            bound.run[row] = torch.fmax(bound.run[row], found.run.amin())
        return bound

    def branch(
        self,
        graph: Graph,
        region: Region,
        rows: Tensor,
        replay: Callable[[Tensor], bool] | None,
        groups: Tensor | None = None,
    ) -> LowerBound:
        """Bound rows (R, C) of one example, (R,).

        `groups` (R,), ascending from 0, says which rows belong together: of a group one row above 0 is enough, another
        one in each part, and its bound (G,) is that of the best row of each part. Without groups each row counts.
        """
        only = torch.zeros(1, dtype=torch.int64, device=rows.device)
        ((_, root, ends),) = self._begun(graph, region, rows.unsqueeze(0), only)
        return self._branched(root, replay, ends, groups)

    def _begun(self, graph: Graph, region: Region, rows: Tensor, open_: Tensor) -> Iterator[tuple[int, Root, float]]:
        """Yield each open example, its root, and when its time ends; of time spent together each has its share."""
        for part in open_.split(together(graph, self.memory)) if len(open_) else ():
            started = time.monotonic()
            ends = started + SHARE * self.timeout * len(part)
            found = roots(graph, region.select(part), rows[part], self.memory, ends)
            share = (time.monotonic() - started) / len(part)
            for row, root in zip(part.tolist(), found, strict=True):
                yield row, root, time.monotonic() + self.timeout - share

    def _branched(
        self, root: Root, replay: Callable[[Tensor], bool] | None, ends: float, groups: Tensor | None = None
    ) -> LowerBound:
        """Split what the root leaves open of one example: the bound of each group, (G,)."""
        own = torch.arange(len(root.rows), device=root.rows.device) if groups is None else groups
        closed = [root.best(own == group) for group in range(int(own.max()) + 1)]
        open_ = [group for group, bound in enumerate(closed) if not bool(bound.proven)]
        if open_ and not root.lost:
            for group, bound in zip(open_, self._split(root, own, open_, replay, ends), strict=True):
                closed[group] = closed[group].better(bound)
        return LowerBound(
            value=torch.stack([one.value for one in closed]), run=torch.stack([one.run for one in closed])
        )

    def _split(
        self, root: Root, own: Tensor, open_: Sequence[int], replay: Callable[[Tensor], bool] | None, ends: float
    ) -> list[LowerBound]:
        """Split one example until some groups of its rows are proven: the bound of each, in their order."""
        kept = torch.isin(own, own.new_tensor(open_)).nonzero()[:, 0]
        groups = torch.searchsorted(own.new_tensor(open_), own[kept])
        search = ReluSplitting(
            tree=Tree.over(root.network, root.rows[kept]),
            replay=replay,
            groups=groups,
            ends=ends,
            max_nodes=min(self.max_nodes, self.quick),
            steps=self.steps,
            candidates=self.candidates,
            memory=self.memory,
            nodes=len(open_),
        )
        closed = search.run(root.begun(search.tree, kept, groups))
        left = self.max_nodes - search.nodes
        for group in range(len(open_)):
            if left > 0 and not search.broken and not bool(closed[group].proven):
                alone = groups == group
                mine = replace(
                    search, tree=replace(search.tree, rows=search.tree.rows[alone]), groups=0 * groups[alone]
                )
                narrowed = NarrowedSplitting(search=mine, max_nodes=left)
                closed[group] = closed[group].better(narrowed.run())
                left, search.broken = left - narrowed.nodes, mine.broken
        return [closed[group] for group in range(len(open_))]
