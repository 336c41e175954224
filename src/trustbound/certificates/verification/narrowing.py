"""Limits of neurons where a row is at most a threshold: what is to be shown empty is narrowed until it is.

A point that breaks a property lies where the property's row is not positive. Whoever looks for one may therefore ask
for the limits of every neuron over such points alone: of a neuron z and the row m both bounded on one way back,
z ≥ least (z + γ (m − threshold)) there, for any γ ≥ 0. Narrower limits bound the row better, a better bound of the row
narrows the limits, and where the two drive each other on nothing is left after a few sweeps, without a split.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.operations import Activation, Linear
from trustbound.certificates.methods.backward import Coefficients, Frontier, halted, resumed
from trustbound.certificates.methods.interval import Bounds
from trustbound.certificates.methods.relaxations import LinearRelaxation
from trustbound.certificates.methods.relaxed_network import RelaxedNetwork, relax_network
from trustbound.certificates.methods.slopes import Ascent, sound_slopes
from trustbound.certificates.verification.domains import Domains, Tree

#: Adam's first steps for slopes and for multipliers of splits; the row's, in units of a neuron's width for its bound.
SLOPE_STEP, SPLIT_STEP, ROW_STEP, ROW_START = 0.5, 0.3, 0.25, 0.0625
#: The largest multiplier of a row: what is larger overflows sooner than it proves.
MOST = 1e6


@dataclass(frozen=True, kw_only=True, eq=False)
class Warm:
    """Where the ascent for one step's limits ended, to begin the next one there.

    Shapes      neurons (U,) of the flattened step; slopes (2 U, *F) uint8 in 255ths; splits (2 U, S); weights (2 U,).
    """

    neurons: Tensor
    slopes: dict[int, Tensor]
    splits: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A part of one example's region, where a row is at most a threshold.

    Parameters
        tree    with limits of the part's own.
        domain  the one domain that it is, (1,).
        split   which of the tree's neurons were split, (S,).
        depth   how many splits led to it.
        empty   limits cross: there are no such points.
        warm    of each step whose neurons have limits of their own.
    """

    tree: Tree
    domain: Domains
    split: Tensor
    depth: int = 0
    empty: bool = False
    warm: Mapping[int, Warm] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """Whether the row is above 0 on all of the part."""
        return self.empty or bool(self.domain.run > 1e-200)


@dataclass(frozen=True, kw_only=True, eq=False)
class Narrowing:
    """Sweeps through a network that narrow the limits of all unstable neurons where a row is at most `threshold`.

    Bound       Limits hold for every point of the part at which the row, as the network runs, is at most the threshold.
                Slopes and multipliers are climbed in float32; limits are evaluated in float64 at what was found.
    Cost        a sweep takes 3 `steps` + 2 passes of two rows for each unstable neuron.
    Reference   Kotha et al., Provably Bounding Neural Network Preimages, 2023, arXiv:2302.01404, section 3 (output
                constraints in the dual); Wang et al., Beta-CROWN, 2021, arXiv:2103.06624, theorem 3.1 (splits).
    Deviations  the row's way back down to a neuron's step is that of its own best bound; below it both go together,
                with slopes of the neuron's own.

    Parameters
        threshold   above 0: then the row's bound is what is smaller, that of the part or the threshold.
        steps       ascent steps for a neuron, row_steps those for the row.
        memory      bytes of rows at once; and of what a step keeps for the next sweep.
        ends        when time ends, by the monotonic clock.
    """

    threshold: float
    steps: int
    row_steps: int
    memory: int
    ends: float = math.inf

    def narrowed(self, part: Part, sweeps: int, least: float) -> tuple[Part, int]:
        """Sweep until nothing is left, the row is proven, or a sweep gains less than `least` of the bound's size.

        Returns how many sweeps that took, too: at most so many, and none begins once time has ended.
        """
        for count in range(sweeps):
            if time.monotonic() >= self.ends:
                return part, count
            before = float(part.domain.value)
            part = self.sweep(part)
            if part.proven or not float(part.domain.value) > before + least * abs(before):
                return part, count + 1
        return part, sweeps

    def sweep(self, part: Part) -> Part:
        """Narrow the limits of every layer once, then bound the row by them."""
        sweep = _Sweep(self, part)
        network = relax_network(part.tree.network.graph, part.tree.network.region, sweep.refine)
        if sweep.empty:
            return replace(part, empty=True)
        tree = replace(part.tree, network=network, single=network.single())
        domain = replace(part.domain, signs=_implied(tree, part.domain.signs))
        domain = tree.improve(domain, Ascent(steps=self.row_steps, step_size=SPLIT_STEP), 0.0)
        return replace(part, tree=tree, domain=domain.better(tree.bound(domain)), warm=sweep.warm)


def _implied(tree: Tree, signs: Tensor) -> Tensor:
    """Return signs (1, N) with those that the limits leave no choice."""
    signs = signs.clone()
    for index, at, place in tree.places:
        operand = tree.network.bounds[tree.network.graph.operations[index].sources[0]]
        low, high = operand.low.flatten(1)[:, at], operand.high.flatten(1)[:, at]
        known = (low >= 0).to(torch.int8) - (high <= 0).to(torch.int8)
        signs[:, place] = torch.where(signs[:, place] == 0, known, signs[:, place])
    return signs


class _Sweep:
    """One sweep: `refine` is asked for the limits of one step after the other."""

    def __init__(self, narrowing: Narrowing, part: Part) -> None:
        self.narrowing, self.part, self.tree = narrowing, part, part.tree
        self.empty, self.warm = False, dict[int, Warm]()
        domain = part.domain
        # The row's own way back, in both precisions: from its last best slopes and multipliers.
        self.ways = []
        for network in (self.tree.network, self.tree.single):
            found = self.tree.relaxed(network, domain.signs)
            chosen, added = self.tree.choices(found, domain.signs, domain.slopes, domain.multipliers)
            self.ways.append((found, chosen, added))
        operations = self.tree.network.graph.operations
        self.kinked = {step.sources[0] for step in operations if isinstance(step, Activation)}

    def refine(self, network: RelaxedNetwork, index: int, bounds: Bounds, unstable: Tensor) -> Bounds:
        """Narrow the limits of a step where the row is at most the threshold, from those known before."""
        if self.empty:
            return bounds
        known = self.tree.network.bounds[index]
        low, high = self._clipped(index, torch.fmax(bounds.low, known.low), torch.fmin(bounds.high, known.high))
        open_ = (low < 0) & (high > 0) if index in self.kinked else low < high
        neurons = (open_ & unstable & self._matters(index, open_)).flatten().nonzero()[:, 0]
        if len(neurons) and not bool((low > high).any()):
            below, above = self._limits(network, index, neurons, float((high - low).flatten()[neurons].mean()))
            flat_low, flat_high = low.clone().flatten(), high.clone().flatten()
            flat_low[neurons] = torch.fmax(flat_low[neurons], below)
            flat_high[neurons] = torch.fmin(flat_high[neurons], above)
            low, high = flat_low.reshape(low.shape), flat_high.reshape(high.shape)
        self.empty = bool((low > high).any())
        return replace(bounds, low=low, high=high)

    def _matters(self, index: int, open_: Tensor) -> Tensor:
        """Say which limits of a step (1, *F) the row may gain by, once the whole region was swept.

        Behind the last activation the row's coefficients are its own: where one is positive the line below is taken,
        which hangs on no limit.
        """
        operations, readers = self.tree.network.graph.operations, self.tree.network.graph.readers
        reader = next((place for place, step in enumerate(operations) if index in step.sources), index)
        later = any(self.tree.network.relaxations.get(place) for place in range(reader + 1, len(operations)))
        if later or readers[index] > 1 or not self.part.depth or not isinstance(operations[reader], Activation):
            return torch.ones_like(open_)
        found, chosen, added = self.ways[1]
        rows = Coefficients(owner=self.part.domain.row.new_zeros(1), coefficients=self._rows(found))
        waiting = halted(found, len(operations) - 1, reader, rows, slopes=chosen, multipliers=added).waiting
        return waiting[reader].coefficients[:, 0] < 0

    def _rows(self, network: RelaxedNetwork) -> Tensor:
        return self.tree.rows[self.part.domain.row].unsqueeze(1).to(network.region.inputs.dtype)

    def _clipped(self, index: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Cut limits where the part lies on one side of zero."""
        for place, at, part in self.tree.places:
            if self.tree.network.graph.operations[place].sources[0] == index:
                signs = self.part.domain.signs[0, part]
                flat_low, flat_high = low.clone().flatten(), high.clone().flatten()
                flat_low[at] = torch.where(signs > 0, flat_low[at].clamp(min=0.0), flat_low[at])
                flat_high[at] = torch.where(signs < 0, flat_high[at].clamp(max=0.0), flat_high[at])
                low, high = flat_low.reshape(low.shape), flat_high.reshape(high.shape)
        return low, high

    def _limits(self, network: RelaxedNetwork, index: int, neurons: Tensor, width: float) -> tuple[Tensor, Tensor]:
        """Return lower and upper limits of some neurons of a step, (U,) each."""
        domain, last = self.part.domain, len(network.graph.operations) - 1
        ways = []
        for found, chosen, added in self.ways:
            row = Coefficients(owner=domain.row.new_zeros(1), coefficients=self._rows(found))
            way = halted(found, last, _stop(network, index), row, slopes=chosen, multipliers=added)
            ways.append(way.less(self.narrowing.threshold))
        single = network.single()
        each = sum(step.features for step in network.graph.operations)
        room = max(1, self.narrowing.memory // (2 * 4 * 8 * each))
        below, above, warms = list[Tensor](), list[Tensor](), list[Warm]()
        for some in neurons.split(room):
            climb = _Climb(self, network, single, index, some)
            warm = climb.run(ways[1], width)
            bound = climb.evaluated(ways[0], warm)
            low, high = bound.chunk(2)
            below.append(low)
            above.append(-high)
            warms.append(warm)
        if len(warms) == 1 and sum(part.numel() for part in warms[0].slopes.values()) < self.narrowing.memory // 8:
            self.warm[index] = warms[0]
        return torch.cat(below), torch.cat(above)


def _stop(network: RelaxedNetwork, index: int) -> int:
    """Return where ways back from a step's neurons are joined by the row's: behind the step, where that is linear.

    What its rows say of one neuron of the step is then looked up once, and not multiplied out each time.
    """
    return index - 1 if isinstance(network.graph.operations[index], Linear) else index


class _Climb:
    """The ascent for both limits of some neurons of a step: slopes, splits and the row's weight, each row's own."""

    def __init__(
        self, sweep: _Sweep, network: RelaxedNetwork, single: RelaxedNetwork, index: int, neurons: Tensor
    ) -> None:
        self.sweep, self.network, self.single, self.index, self.neurons = sweep, network, single, index, neurons
        size = network.bounds[index].low[0].numel()
        plus = torch.nn.functional.one_hot(neurons, size).double()
        units = torch.cat([plus, -plus]).reshape(1, -1, *network.graph.operations[index].shape)
        rows = Coefficients(owner=neurons.new_zeros(1), coefficients=units)
        self.count, self.rows, self.stop = units.shape[1], rows, _stop(network, index)
        self.ways = [
            halted(found, index, self.stop, part) for found, part in ((network, rows), (single, rows.single()))
        ]
        # Which splits lie before the step: their activation, the places, which of all splits, and their signs.
        tree, split = sweep.tree, sweep.part.split
        self.splits = []
        for place, at, part in tree.places:
            mine = ((split >= part.start) & (split < part.stop)).nonzero()[:, 0]
            if place < index and len(mine):
                here = split[mine]
                signs = sweep.part.domain.signs[0, here].float()
                self.splits.append((place, at[here - part.start], mine, signs))

    def run(self, way: Frontier, width: float) -> Warm:
        """Climb in float32 from where the last sweep ended; keep the best iterate of each row."""
        narrowing, part = self.sweep.narrowing, self.sweep.part
        scale = width / max(1e-6, abs(float(part.domain.value.nan_to_num(0.0, 0.0, 0.0))))
        points, free = self._start(scale * ROW_START)
        steps = {-2: SPLIT_STEP, -1: ROW_STEP * scale}
        best, most = {key: point.clone() for key, point in points.items()}, torch.full((1, self.count), -torch.inf)
        most = most.to(self.neurons.device)
        memory = {key: torch.zeros(2, *point.shape, device=point.device) for key, point in points.items()}
        for step in range(1, narrowing.steps + 2):
            last = step > narrowing.steps
            with torch.set_grad_enabled(not last):
                moved = {key: point.requires_grad_(not last) for key, point in points.items()}
                bound = self._bound(self.single, self.ways[1], moved, way, ())
                given: Sequence[Tensor | None] = [None] * len(moved)
                if not last:
                    given = torch.autograd.grad(bound.sum(), list(moved.values()), allow_unused=True)
            better = bound.detach() > most
            most = torch.fmax(most, bound.detach())
            for (key, point), gradient in zip(points.items(), given, strict=True):
                point.requires_grad_(False)
                best[key] = torch.where(better.reshape(1, -1, *[1] * (point.ndim - 2)), point, best[key])
                if gradient is not None:
                    ascent = Ascent(steps=narrowing.steps, step_size=steps.get(key, SLOPE_STEP))
                    ascent.move(point, gradient * free.get(key, 1.0), memory[key], step)
                    point.clamp_(self._least(key), 1.0 if key >= 0 else MOST)
        slopes = {key: (255 * point[0]).round().to(torch.uint8) for key, point in best.items() if key >= 0}
        return Warm(neurons=self.neurons, slopes=slopes, splits=best[-2][0], weights=best[-1][0, :, 0])

    def evaluated(self, way: Frontier, warm: Warm) -> Tensor:
        """Bound the rows in float64, as the network runs, at what an ascent found: (2 U,)."""
        points = {key: part.unsqueeze(0).double() / 255 for key, part in warm.slopes.items()}
        points[-2], points[-1] = warm.splits.unsqueeze(0).double(), warm.weights.reshape(1, -1, 1).double()
        for key in warm.slopes:
            points[key] = sound_slopes(self.network, key, points[key], self.rows)
        run = self._bound(self.network, self.ways[0], points, way, self.network.bounds)
        return run[0].nan_to_num(-torch.inf, -torch.inf, -torch.inf)

    def _bound(
        self,
        network: RelaxedNetwork,
        own: Frontier,
        points: Mapping[int, Tensor],
        way: Frontier,
        found: Sequence[Bounds],
    ) -> Tensor:
        """Bound the rows beside the weighted row, (1, 2 U), as the network runs."""
        slopes = {key: point for key, point in points.items() if key >= 0}
        added: dict[int, Tensor] = {}
        for place, at, mine, signs in self.splits:
            shape = network.graph.operations[place].shape
            held = points[-2].clamp(min=0.0)[..., mine] * -signs.to(points[-2].dtype)
            zeros = held.new_zeros(1, self.count, network.graph.operations[place].features)
            added[place] = zeros.index_copy(2, at, held).reshape(1, self.count, *shape)
        both = own.beside(way.weighted(points[-1][..., 0].clamp(0.0, MOST)), network.graph, found)
        return resumed(network, self.stop, both, slopes=slopes, multipliers=added).run

    def _least(self, key: int) -> float:
        step = self.network.graph.operations[key] if key >= 0 else None
        return step.slope if isinstance(step, Activation) else 0.0

    def _start(self, weight: float) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Return where the ascent begins, slopes, splits at −2, weights at −1; and what is free."""
        part, device = self.sweep.part, self.neurons.device
        warm = part.warm.get(self.index)
        kept = None
        if warm is not None:
            place = torch.full((self.network.bounds[self.index].low[0].numel(),), -1, device=device)
            place[warm.neurons] = torch.arange(len(warm.neurons), device=device)
            own = place[self.neurons]
            kept = None if bool((own < 0).any()) else torch.cat([own, own + len(warm.neurons)])
        points: dict[int, Tensor] = {}
        free: dict[int, Tensor] = {}
        for key, line in self.single.relaxations.items():
            if (
                key < self.index
                and isinstance(line, LinearRelaxation)
                and isinstance(self.network.graph.operations[key], Activation)
            ):
                unstable = (line.below != line.above).unsqueeze(1)
                below = line.below.unsqueeze(1).expand(1, self.count, *line.below.shape[1:])
                if warm is not None and kept is not None and key in warm.slopes:
                    below = torch.where(unstable, warm.slopes[key][kept].unsqueeze(0).float() / 255, below)
                points[key], free[key] = below.clone(), unstable.float()
        splits = torch.zeros(1, self.count, len(part.split), device=device)
        weights = torch.full((1, self.count, 1), weight, device=device)
        if warm is not None and kept is not None:
            splits[0, :, : warm.splits.shape[1]] = warm.splits[kept]
            weights[0, :, 0] = warm.weights[kept]
        points[-2], points[-1] = splits, weights
        return points, free
