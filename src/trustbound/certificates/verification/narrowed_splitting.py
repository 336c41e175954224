"""The search over parts whose limits are their own: each is narrowed to where its row is not positive, then split."""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.methods.slopes import Ascent
from trustbound.certificates.specification import LowerBound
from trustbound.certificates.verification.branching import bend, costs, split
from trustbound.certificates.verification.domains import Domains, Tree
from trustbound.certificates.verification.narrowing import Narrowing, Part
from trustbound.certificates.verification.pruning import pruned
from trustbound.certificates.verification.relu_splitting import ReluSplitting
from trustbound.certificates.verification.roots import FIRST_STEPS, STEP_SIZE

#: Ascent steps of a neuron and of the row in one sweep; sweeps of the whole region and of a half, at most, and what
#: one must gain of the bound for another to follow.
STEPS, ROW_STEPS, FIRST_SWEEPS, SWEEPS, GAIN = 5, 20, 12, 12, 0.04
#: Unsplit neurons with which a part is left to the search that keeps its limits.
FEW = 12
#: What a split of the last neurons counts beside one of the others.
LAST = 0.5
#: What is proven of an example is at most this share of the size of its first bound.
SHARE = 1e-4


@dataclass(kw_only=True, eq=False)
class NarrowedSplitting:
    """The search over the parts of one example's region for one group of rows, limits narrowed in each part.

    Update      a part is swept until the limits of its neurons, where its row is at most a small threshold, gain no
                more; what is not closed by then is split at the neuron that costs its bound most. Halves go on from
                limits, slopes and multipliers of the whole, worst first and deepest first. What has few neurons left
                is searched with its limits as they are, to the end.

    Parameters
        search      the search with fixed limits, over the rows of the group alone.
        max_nodes   parts, at most; a sweep counts as many as it has rows, by what their ascents cost.
    """

    search: ReluSplitting
    max_nodes: int
    nodes: int = 0
    heap: list[tuple[int, float, int, Part]] = field(default_factory=list)
    bounds: list[LowerBound] = field(default_factory=list)

    def run(self) -> LowerBound:
        """Split until all is proven, a point is found, or time or nodes run out: the smallest bound of all parts."""
        search, ticket = self.search, itertools.count()
        whole = search.whole()
        size = float(whole.value.nan_to_num(0.0, 0.0, 0.0).abs())
        self.threshold = max(1e-9, SHARE * size)
        narrowing = Narrowing(
            threshold=self.threshold, steps=STEPS, row_steps=ROW_STEPS, memory=search.memory, ends=search.ends
        )
        part = Part(tree=search.tree, domain=whole, split=whole.row.new_zeros(0))
        if self._goes_on():
            part = self._narrowed(narrowing, part, FIRST_SWEEPS)
            part = part if part.proven else self._pruned(part)
        self._push(part, ticket)
        while self.heap and self._goes_on() and not search.broken:
            part = heapq.heappop(self.heap)[-1]
            left = int((part.domain.signs == 0).sum())
            if left <= FEW and part.tree.pieces:
                self._searched(part, ticket)
                continue
            halves, points = self._bent(part) if left == 0 else self._split(part)
            if search.refuted(points) or not halves:
                self._push(part, ticket)
                break
            for half in halves:
                self._push(self._narrowed(narrowing, half, SWEEPS), ticket)
        for *_, part in self.heap:
            self._close(part.domain)
        value, run = (torch.stack([getattr(bound, name) for bound in self.bounds]) for name in ("value", "run"))
        return LowerBound(value=value.amin(0), run=run.amin(0))

    def _pruned(self, part: Part) -> Part:
        """Begin anew with the whole region, without the neurons that it never switches on."""
        network = pruned(part.tree.network)
        if network is part.tree.network:
            return part
        tree = Tree.over(network, part.tree.rows)
        domain = replace(tree.whole(part.domain.row), value=part.domain.value, run=part.domain.run)
        domain = tree.improve(domain, Ascent(steps=FIRST_STEPS, step_size=STEP_SIZE), 0.0)
        return Part(tree=tree, domain=domain.better(tree.bound(domain)), split=part.split)

    def _goes_on(self) -> bool:
        return time.monotonic() < self.search.ends and self.nodes < self.max_nodes

    def _narrowed(self, narrowing: Narrowing, part: Part, sweeps: int) -> Part:
        """Narrow a part, and count what that costs in parts bounded."""
        open_ = int((part.domain.signs == 0).sum())
        open_ += sum(step.features for step in part.tree.network.graph.operations if isinstance(step, Smooth))
        part, count = narrowing.narrowed(part, sweeps, GAIN)
        self.nodes += 1 + count * open_ * (3 * STEPS + 2) // 16
        return part

    def _split(self, part: Part) -> tuple[list[Part], Tensor]:
        """Return both halves of a part at a ReLU, and the point where its bound is least."""
        cost, points = costs(part.tree, part.domain)
        # A split behind which no limits are left to narrow helps the row alone.
        cost[:, part.tree.places[-1][2]] *= LAST
        halves = split(part.tree, part.domain, cost, self.search.candidates, self.search.at_once)
        neuron = (halves.signs[0] != part.domain.signs[0]).nonzero()[0]
        chosen = torch.cat([part.split, neuron])
        both = [halves.select(slice(place, place + 1)) for place in range(len(halves))]
        return [replace(part, domain=half, split=chosen, depth=part.depth + 1) for half in both], points

    def _bent(self, part: Part) -> tuple[list[Part], Tensor]:
        """Return both halves of a part at the middle of a smooth activation's limits, none where no line is off."""
        found, points = bend(part.tree, part.domain)
        if found is None:
            return [], points
        index, place = found
        network, halves = part.tree.network, []
        bounds = network.bounds[index]
        low, high = bounds.low.clone().flatten(), bounds.high.clone().flatten()
        middle = (low[place] + high[place]) / 2
        for side in (0, 1):
            ends = [low.clone(), high.clone()]
            ends[1 - side][place] = middle
            low_, high_ = (end.reshape(bounds.low.shape) for end in ends)
            known = [*network.bounds]
            known[index] = replace(bounds, low=low_, high=high_)
            tree = replace(part.tree, network=replace(network, bounds=known))
            halves.append(replace(part, tree=tree, depth=part.depth + 1))
        return halves, points

    def _searched(self, part: Part, ticket: itertools.count[int]) -> None:
        """Search a part to the end with its limits as they are."""
        inner = replace(
            self.search,
            tree=part.tree,
            graph=self.search.tree.network.graph,
            heap=[],
            closed={},
            nodes=0,
            max_nodes=max(1, self.max_nodes - self.nodes),
        )
        found = inner.run(part.domain)[0]
        self.nodes, self.search.broken = self.nodes + inner.nodes, inner.broken
        self._close(replace(part.domain, value=found.value.unsqueeze(0), run=found.run.unsqueeze(0)))

    def _push(self, part: Part, ticket: itertools.count[int]) -> None:
        if part.empty:
            most = torch.full_like(part.domain.value, self.threshold)
            self._close(replace(part.domain, value=most, run=most))
        elif part.proven:
            self._close(part.domain)
        else:
            value = float(part.domain.value.nan_to_num(-torch.inf))
            heapq.heappush(self.heap, (-part.depth, value, next(ticket), part))

    def _close(self, domain: Domains) -> None:
        """Count a part: beyond the threshold nothing was asked."""
        value, run = (bound[0].clamp(max=self.threshold) for bound in (domain.value, domain.run))
        self.bounds.append(LowerBound(value=value, run=run))
