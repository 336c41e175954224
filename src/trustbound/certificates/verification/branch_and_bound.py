"""Complete verification of ReLU networks: split ReLUs, bound both halves, until all is proven or a point is found."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
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
from trustbound.certificates.verification.relu_splitting import FIRST_STEPS, ReluSplitting
from trustbound.errors import InputError
from trustbound.tasks.task import Task


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
        timeout     seconds for an example that bounds alone leave open, its limits included; infinity for no limit.
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
        for row in (~bound.proven.all(1)).nonzero()[:, 0].tolist() if least else ():
            columns = (~bound.proven[row]).nonzero()[:, 0]
            found = self.branch(graph, region.select(slice(row, row + 1)), specification[row, columns], None)
            bound.value[row, columns] = torch.fmax(bound.value[row, columns], found.value)
            bound.run[row, columns] = torch.fmax(bound.run[row, columns], found.run)
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
        for row in open_[~refuter.attack(open_)].tolist():
            replay = functools.partial(refuter.replay, row)
            found = self.branch(graph, region.select(slice(row, row + 1)), required.rows[row], replay)
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
        started = time.monotonic()
        own = torch.arange(len(rows), device=rows.device) if groups is None else groups
        network = AlphaCrown(memory=self.memory, limit_steps=FIRST_STEPS).limits(graph, region)
        lost = network.bounds[-1].lost
        count = int(own.max()) + 1
        if lost is not None and bool(lost.any()):  # no bound holds as the network runs, however much is split
            nothing = rows.new_full((count,), -math.inf)
            return LowerBound(value=nothing, run=nothing)
        search = ReluSplitting(
            tree=Tree.over(network, rows),
            replay=replay,
            groups=own,
            ends=started + self.timeout,
            max_nodes=min(self.max_nodes, self.quick),
            steps=self.steps,
            candidates=self.candidates,
            memory=self.memory,
        )
        closed = search.run()
        left = self.max_nodes - search.nodes
        for group in range(count):
            if left > 0 and not search.broken and not bool(closed[group].proven):
                mine = replace(search, tree=replace(search.tree, rows=rows[own == group]), groups=0 * own[own == group])
                narrowed = NarrowedSplitting(search=mine, max_nodes=left)
                closed[group] = closed[group].better(narrowed.run())
                left, search.broken = left - narrowed.nodes, mine.broken
        found = [closed[group] for group in range(count)]
        return LowerBound(value=torch.stack([one.value for one in found]), run=torch.stack([one.run for one in found]))
