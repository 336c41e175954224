"""Complete verification of ReLU networks: split ReLUs, bound both halves, until all is proven or a point is found."""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.methods.alpha_crown import AlphaCrown
from trustbound.certificates.methods.branching import costs, split
from trustbound.certificates.methods.domains import Domains, Tree
from trustbound.certificates.methods.leaf_programme import solve
from trustbound.certificates.methods.slopes import Ascent
from trustbound.certificates.region import Region
from trustbound.certificates.specification import Certifier, LowerBound, Refuter
from trustbound.errors import InputError
from trustbound.tasks.task import Task

#: Steps of the first climb and of the small descents that look for counterexamples; how far a climb steps first.
FIRST_STEPS, DESCENT = 30, 5
STEP_SIZE = 0.3

#: Domains that are split at once, at most; and those that are kept open, in pieces of work.
AT_ONCE, HELD = 256, 16


@dataclass(frozen=True, kw_only=True, eq=False)
class BranchAndBound(Certifier):
    """Split unstable ReLUs into active and inactive until each part is proven, or a point breaks the example.

    Bound       Lower. Deterministic: holds for every input of the region; never below `alpha-crown`. Complete for ReLU
                and leaky ReLU networks under linf, given time: what it does not prove, to rounding, it refutes. Stopped
                early it returns the smallest bound of all parts, and the example is unknown.
    Needs       a network that can be read into a list of operations.  Norms: linf, l2, l1.
    Update      the parts with the smallest bounds are split first, `AT_ONCE` together; of each the neuron is split
                whose halves have the best bounds. Known signs enter the bound by multipliers β ≥ 0, which are climbed
                together with the lower slopes, in float32 and warm from the part before; every bound that counts is
                evaluated in float64. Where every ReLU is split, the dual of a linear programme gives the multipliers.
    Shapes      region (B, *F); specification (B, K, C); returns (B, K) float64.
    Cost        that of `alpha-crown`; then, for each example that it leaves open, at most `timeout` seconds: a pair of
                parts takes about 2 `candidates` + 6 `steps` backward passes of one row.
    Randomness  none; with a timeout, what is proven hangs on the clock.
    Raises      InputError for parameters out of range.
    Reference   Wang et al., Beta-CROWN: Efficient Bound Propagation with Per-neuron Split Constraints, 2021,
                arXiv:2103.06624, theorem 3.1; Bunel et al., Branch and Bound for Piecewise Linear Neural Network
                Verification, 2020, arXiv:1909.06588; De Palma et al., Improved Branch and Bound for Neural Network
                Verification via Lagrangian Decomposition, 2021, arXiv:2104.06718, section 5 (filtered branching).
    Deviations  candidates are filtered by what their line costs at the point where the bound is least; limits of
                neurons stay those of the whole region; a part without unsplit ReLUs is solved by a linear programme of
                which only the multipliers are taken. Max pools are not split. Tasks whose margin is not that of
                classes, and rows asked for one by one, have the bound of `alpha-crown`.

    Parameters
        timeout     seconds for an example that bounds alone leave open, its limits included; infinity for no limit.
        max_nodes   parts of an example, at most.
        steps       ascent steps for a part.
        candidates  neurons of which both halves are tried before one is split.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_nodes", "steps", "candidates"):
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
        if lost is not None and bool(lost.any()):  # no bound holds as the network runs, however much is split
            nothing = rows.new_full((int(own.max()) + 1,), -math.inf)
            return LowerBound(value=nothing, run=nothing)
        # A part takes about two dozen numbers in float64 for each that the network computes.
        at_once = self.memory // (8 * 24 * sum(step.features for step in graph.operations))
        search = _Search(
            tree=Tree.over(network, rows),
            certifier=self,
            replay=replay,
            at_once=max(2, min(AT_ONCE, at_once)),
            groups=own,
            ends=started + self.timeout,
        )
        closed = search.run()
        found = [closed[group] for group in range(len(closed))]
        return LowerBound(value=torch.stack([one.value for one in found]), run=torch.stack([one.run for one in found]))


@dataclass(kw_only=True, eq=False)
class _Search:
    """The search over the parts of one example's region: a heap of open ones, and what the closed ones came to.

    `groups` (R,) says which rows belong together; a part holds the row of its group that is best there.
    """

    tree: Tree
    certifier: BranchAndBound
    replay: Callable[[Tensor], bool] | None
    at_once: int
    groups: Tensor
    ends: float
    heap: list[tuple[float, int, Domains]] = field(default_factory=list)
    closed: dict[int, LowerBound] = field(default_factory=dict)
    nodes: int = 0

    def run(self) -> dict[int, LowerBound]:
        """Split until all groups are proven, a point breaks one, or time or nodes run out: the bound of each."""
        certifier = self.certifier
        ticket = itertools.count()
        every = self.groups.unique()
        rows = (self.groups == every.unsqueeze(1)).to(torch.int8).argmax(1)
        whole = self._bounded(self.tree.whole(rows), FIRST_STEPS)
        self._push(whole, ticket)
        hopeless = not bool(whole.value.isfinite().all())  # what overflows overflows in every part
        # Signs, slopes and multipliers of an open part.
        room = HELD * certifier.memory // (9 * max(1, self.tree.neurons))
        while self.heap and not hopeless and time.monotonic() < self.ends:
            count = min(self.at_once, len(self.heap), (certifier.max_nodes - self.nodes) // 2)
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
            if self._refuted(points):
                self._push(parents, ticket)
                break
            halves = split(self.tree, parents, cost, certifier.candidates, self.at_once)
            for part in torch.arange(len(halves), device=rows.device).split(self.at_once):
                self._push(self._bounded(halves.select(part), certifier.steps), ticket)
        for _, _, domain in self.heap:
            self._close(domain)
        return self.closed

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
        for place in range(len(leaves)):
            leaf = leaves.select(slice(place, place + 1))
            leaf, point, row = solve(self.tree, leaf, self.tree.rows[self.groups == self.groups[leaf.row]])
            alone = replace(self.tree, rows=row.unsqueeze(0))
            leaf = leaf.better(alone.bound(replace(leaf, row=torch.zeros_like(leaf.row))))
            self._close(leaf)
            if not bool(LowerBound(value=leaf.value, run=leaf.run).proven.all()):
                proven = False
                if point is not None:
                    self._refuted(point)
        return proven

    def _refuted(self, points: Tensor) -> bool:
        """Say whether a point, or one near it down the margin, has a margin below 0 in exact arithmetic; replay it."""
        region = self.tree.network.region
        reached = self._descended(points)
        margins = self._smallest(self.tree.network.graph(reached) @ self.tree.rows.T)
        broken = (margins < 0).nonzero()[:, 0]
        if not len(broken):
            return False
        assert bool(((reached >= region.low) & (reached <= region.high)).all())
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
        return self._inside(torch.minimum(torch.maximum(best.double(), region.low), region.high))

    def _inside(self, points: Tensor) -> Tensor:
        """Pull points of the limits back into the ball: towards its centre, which keeps them within the limits."""
        region = self.tree.network.region
        if region.norm == "linf":
            return points
        away = points - region.inputs
        size = torch.linalg.vector_norm(away.flatten(1), 2 if region.norm == "l2" else 1, 1)
        share = ((1 - 1e-12) * region.radius / size.clamp(min=1e-300)).clamp(max=1.0)
        inner = region.inputs + away * share.reshape(-1, *[1] * (points.ndim - 1))
        return torch.minimum(torch.maximum(inner, region.low), region.high)
