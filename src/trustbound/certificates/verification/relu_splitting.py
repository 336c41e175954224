"""The search over parts of a region: ReLUs are split, both halves bounded, until all is proven or a point is found."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.methods.slopes import Ascent
from trustbound.certificates.specification import LowerBound
from trustbound.certificates.verification.branching import costs, split
from trustbound.certificates.verification.domains import Domains, Tree
from trustbound.certificates.verification.leaf_programme import solve
from trustbound.certificates.verification.roots import FIRST_STEPS, STEP_SIZE

#: Steps of the small descents that look for counterexamples.
DESCENT = 5

#: Domains that are split at once, at most; and those that are kept open, in pieces of work.
AT_ONCE, HELD = 256, 16


@dataclass(kw_only=True, eq=False)
class ReluSplitting:
    """The search over the parts of one example's region: a heap of open ones, and what the closed ones came to.

    `groups` (R,) says which rows belong together; a part holds the row of its group that is best there.

    Parameters
        replay      is shown points whose margin is below 0 in exact arithmetic.
        ends        when time ends, by the monotonic clock.
        max_nodes   parts that are bounded, at most.
        steps       ascent steps for a part.
        candidates  neurons of which both halves are tried before one is split.
        memory      bytes of one piece of work.
        graph       that points are tried on, where the tree's own answers as it does on a part of the region alone.
    """

    tree: Tree
    replay: Callable[[Tensor], bool] | None
    groups: Tensor
    ends: float
    max_nodes: int
    steps: int
    candidates: int
    memory: int
    graph: Graph | None = None
    heap: list[tuple[float, int, Domains]] = field(default_factory=list)
    closed: dict[int, LowerBound] = field(default_factory=dict)
    nodes: int = 0
    broken: bool = False

    def __post_init__(self) -> None:
        # A part takes about two dozen numbers in float64 for each that the network computes.
        each = 8 * 24 * sum(step.features for step in self.tree.network.graph.operations)
        self.at_once = max(2, min(AT_ONCE, self.memory // each))

    def run(self, start: Domains | None = None) -> dict[int, LowerBound]:
        """Split until all groups are proven, a point breaks one, or time or nodes run out: the bound of each.

        The search begins with the whole region, once for each group, unless it is given where to `start`.
        """
        ticket = itertools.count()
        whole = self.whole() if start is None else start
        self._push(whole, ticket)
        hopeless = not bool(whole.value.isfinite().all())  # what overflows overflows in every part
        # Signs, slopes and multipliers of an open part.
        room = HELD * self.memory // (9 * max(1, self.tree.neurons))
        while self.heap and not hopeless and time.monotonic() < self.ends:
            count = min(self.at_once, len(self.heap), (self.max_nodes - self.nodes) // 2)
            if count < 1 or len(self.heap) > room:
                break
            parents = Domains.joined([heapq.heappop(self.heap)[2] for _ in range(count)])
            left = (parents.signs == 0).any(1)
            if not bool(left.all()) and not self._leaves(parents.select(~left)):
                self._push(parents.select(left), ticket)
                break
            parents = parents.select(left)
            if not len(parents):
                continue
            cost, points = costs(self.tree, parents)
            if self.refuted(points):
                self._push(parents, ticket)
                break
            halves = split(self.tree, parents, cost, self.candidates, self.at_once)
            for part in torch.arange(len(halves), device=halves.row.device).split(self.at_once):
                self._push(self._bounded(halves.select(part), self.steps), ticket)
        for _, _, domain in self.heap:
            self._close(domain)
        return self.closed

    def whole(self) -> Domains:
        """Return the whole region once for each group, bounded at its best row."""
        every = self.groups.unique()
        rows = (self.groups == every.unsqueeze(1)).to(torch.int8).argmax(1)
        return self._bounded(self.tree.whole(rows), FIRST_STEPS)

    def _bounded(self, domains: Domains, steps: int) -> Domains:
        """Domains with their bounds bettered."""
        self.nodes += len(domains)
        domains = self._at_best_rows(domains)
        # What is above zero by some more than rounding takes is proven in float64 as well.
        slack = (domains.value - domains.run).nan_to_num(0.0, 0.0, 0.0)
        goal = float((2 * slack + 1e-3 * domains.value.abs().nan_to_num(0.0, 0.0, 0.0)).amax())
        domains = self.tree.improve(domains, Ascent(steps=steps, step_size=STEP_SIZE), goal)
        return domains.better(self.tree.bound(domains))

    def _at_best_rows(self, domains: Domains) -> Domains:
        """Give each domain the row of its group whose bound is largest there."""
        owner = self.groups[domains.row]
        places = [(self.groups == group).nonzero()[:, 0] for group in range(int(self.groups.max()) + 1)]
        most = max(map(len, places))
        if most == 1:
            return domains
        best, chosen = torch.full_like(domains.value, -math.inf), domains.row.clone()
        for number in range(most):
            rows = torch.stack([place[min(number, len(place) - 1)] for place in places])[owner]
            bound = self.tree.sketch(replace(domains, row=rows)).double().nan_to_num(-math.inf)
            chosen = torch.where(bound > best, rows, chosen)
            best = torch.fmax(best, bound)
        return replace(domains, row=chosen)

    def _smallest(self, values: Tensor) -> Tensor:
        """Return the smallest over the groups of the largest of their rows: (P, R) to (P,)."""
        if len(self.groups.unique()) == len(self.groups):
            return values.amin(1)
        count = int(self.groups.max()) + 1
        least = values.new_full((len(values), count), -math.inf)
        return least.scatter_reduce(1, self.groups.expand_as(values), values, "amax").amin(1)

    def _push(self, domains: Domains, ticket: itertools.count[int]) -> None:
        """Close what is proven, keep the rest open, smallest bounds first."""
        for place in range(len(domains)):
            domain = domains.select(torch.tensor([place], device=domains.row.device))  # a copy, not a view of all
            if bool(LowerBound(value=domain.value, run=domain.run).proven.all()):
                self._close(domain)
            else:
                known = float(domain.value)
                heapq.heappush(self.heap, (-math.inf if math.isnan(known) else known, next(ticket), domain))

    def _close(self, domain: Domains) -> None:
        """Count one domain into its group's bound."""
        place, own = int(self.groups[domain.row]), LowerBound(value=domain.value[0], run=domain.run[0])
        kept = self.closed.get(place, own)
        self.closed[place] = LowerBound(
            value=torch.minimum(kept.value, own.value), run=torch.minimum(kept.run, own.run)
        )

    def _leaves(self, leaves: Domains) -> bool:
        """Solve domains in which nothing is left to split; say whether all of them are proven."""
        proven = True
        if not self.tree.pieces:  # what is left is no linear programme
            for place in range(len(leaves)):
                self._close(leaves.select(slice(place, place + 1)))
            return False
        for place in range(len(leaves)):
            leaf = leaves.select(slice(place, place + 1))
            leaf, point, row = solve(self.tree, leaf, self.tree.rows[self.groups == self.groups[leaf.row]])
            alone = replace(self.tree, rows=row.unsqueeze(0))
            leaf = leaf.better(alone.bound(replace(leaf, row=torch.zeros_like(leaf.row))))
            self._close(leaf)
            if not bool(LowerBound(value=leaf.value, run=leaf.run).proven.all()):
                proven = False
                if point is not None:
                    self.refuted(point)
        return proven

    def refuted(self, points: Tensor) -> bool:
        """Say whether a point, or one near it down the margin, has a margin below 0 in exact arithmetic; replay it."""
        region = self.tree.network.region
        reached = self._descended(points)
        graph = self.graph or self.tree.network.graph
        margins = self._smallest(graph(reached) @ self.tree.rows.T)
        broken = (margins < 0).nonzero()[:, 0]
        if not len(broken):
            return False
        assert bool(((reached >= region.low) & (reached <= region.high)).all())
        self.broken = True
        if self.replay is not None:
            self.replay(reached[broken[margins[broken].argsort()]])
        return True

    def _descended(self, points: Tensor) -> Tensor:
        """Return points (P, *F) of the limits after a few signed steps down their smallest margin."""
        region, single = self.tree.network.region, self.tree.single
        low, high = single.region.low, single.region.high
        points = points.float()
        best, least = points.clone(), points.new_full((len(points),), torch.inf)
        for step in range(DESCENT + 1):
            with torch.enable_grad():
                here = points.clone().requires_grad_(True)
                margins = self._smallest(single.graph(here) @ self.tree.rows.float().T)
                (gradient,) = torch.autograd.grad(margins.sum(), here)
            lower = margins.detach() < least
            shape = (-1, *[1] * (points.ndim - 1))
            best = torch.where(lower.reshape(shape), points, best)
            least = torch.where(lower, margins.detach(), least)
            points = points - gradient.sign() * (high - low) * (0.5 * 0.5**step)
            points = torch.minimum(torch.maximum(points, low), high)
        return region.inside(torch.minimum(torch.maximum(best.double(), region.low), region.high))
