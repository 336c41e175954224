"""α-CROWN: CROWN's backward bounds with the lower slopes of unstable ReLUs optimised for every row."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.operations import Activation
from trustbound.certificates.methods.backward import Coefficients, propagate_backward
from trustbound.certificates.methods.crown import Crown, back_to_limits, unstable_rows
from trustbound.certificates.methods.interval import Bounds, bound_specification
from trustbound.certificates.methods.relaxed_network import RelaxedNetwork, relax_network
from trustbound.certificates.methods.slopes import Ascent, optimised_slopes
from trustbound.certificates.region import Region
from trustbound.certificates.specification import Certifier, LowerBound
from trustbound.errors import InputError
from trustbound.tasks.task import real


@dataclass(frozen=True, kw_only=True, eq=False)
class AlphaCrown(Certifier):
    """Climb CROWN's bound over the lower slopes of unstable ReLUs, every row with slopes of its own.

    Bound       Lower. Deterministic: holds for every input of the region; never below `crown`, so never below
                `interval`. The climb is in float32; what is returned is evaluated afresh in float64 at the best slopes
                (limits as `crown` does).
    Needs       a network that can be read into a list of operations.  Norms: linf, l2, l1, l0.
    Update      slopes <- clip(slopes + step_size · Adam(gradient of the bound), slope of the ReLU below zero, 1);
                first for the limits of every layer's unstable neurons, layer by layer, then for the rows.
    Shapes      region (B, *F); specification (B, K, C); returns (B, K) float64.
    Cost        CROWN; then, for the examples that it leaves unproven, about 3 `limit_steps` backward passes per
                unstable neuron and 3 `steps` per row. An example whose rows are all proven is left alone, and rows
                stop once they are proven.
    Randomness  none.
    Raises      InputError for parameters out of range.
    Reference   Xu et al., Fast and Complete: Enabling Complete Verification with Rapid and Massively Parallel
                Incomplete Verifiers, 2021, arXiv:2011.13824, section 3.2 and equation 9.
    Deviations  limits are optimised layer by layer, each neuron's for its own sake with slopes of its own, in place of
                all together for the margin: tighter limits never hurt the margin, and memory stays that of one layer.

    Parameters
        steps       ascent steps for rows over the logits.
        limit_steps ascent steps for the limits of unstable neurons; 0 keeps CROWN's.
        step_size   Adam's, which decays by 5 % a step.

    >>> from trustbound.certificates.graph import read
    >>> _ = torch.manual_seed(0)
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> inputs, labels = torch.full((1, 4), 0.5), torch.tensor([0])
    >>> graph, region = read(network, inputs), Region.around(inputs, (0.0, 1.0), "linf", 0.4)
    >>> bool(AlphaCrown().margins(graph, region, labels).run > Crown().margins(graph, region, labels).run + 0.01)
    True
    """

    steps: int = 20
    limit_steps: int = 5
    step_size: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("steps", 1), ("limit_steps", 0)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise InputError(f"`{name}` must be a whole number ≥ {least}; got {getattr(self, name)!r}")
        step_size = real(self.step_size)
        if step_size is None or not 0 < step_size < math.inf:
            raise InputError(f"`step_size` must be a number > 0; got {self.step_size!r}")

    def bound(self, graph: Graph, region: Region, specification: Tensor, least: bool) -> LowerBound:
        """Bound ⟨row, logits⟩ for a few examples; with `least` only the smallest of each counts."""
        cheaper = Crown(memory=self.memory).bound(graph, region, specification, least).separate()
        wanted = ~cheaper.proven if least else torch.ones_like(cheaper.proven)
        rows = wanted.any(1).nonzero()[:, 0]
        if not len(rows):
            return cheaper
        network = self.limits(graph, region.select(rows))
        before = LowerBound(value=cheaper.value[rows], run=cheaper.run[rows])
        better = self.optimise(network, specification[rows], before, wanted[rows], least)
        cheaper.value[rows], cheaper.run[rows] = better.value, better.run
        return cheaper

    def limits(self, graph: Graph, region: Region, ends: float = math.inf) -> RelaxedNetwork:
        """Return every step's limits, those of unstable neurons optimised, and the relaxations that they give.

        From when time `ends`, by the monotonic clock, limits are left as `crown` has them.
        """
        return relax_network(graph, region, functools.partial(self._tighten, ends))

    def optimise(
        self, network: RelaxedNetwork, specification: Tensor, before: LowerBound, wanted: Tensor, least: bool
    ) -> LowerBound:
        """Better the bounds (B, K) of rows (B, K, C) where they are wanted (B, K); with `least` only until proven."""
        bound = bound_specification(network.graph, network.region, network.bounds, specification)
        bound = bound.better(before).separate()
        # What is proven by some more than rounding takes is proven in float64 as well.
        goal = torch.full_like(bound.value, math.inf)
        if least:
            goal = (2 * bound.slack + 1e-3 * before.value.abs()).nan_to_num(math.inf, math.inf)
            wanted = wanted & ~bound.proven
        owner = torch.arange(len(specification), device=specification.device)
        order = wanted.to(torch.int8).argsort(stable=True, dim=1, descending=True)[:, : int(wanted.sum(1).amax())]
        last, most, single = len(network.graph.operations) - 1, _room(self.memory, network.graph), network.single()
        ascent = Ascent(steps=self.steps, step_size=self.step_size)
        for part in owner.split(max(1, most // max(1, order.shape[1]))):
            for columns in order[part].split(most, 1):
                chosen = specification[part].gather(1, columns.unsqueeze(2).expand(-1, -1, specification.shape[2]))
                rows, at = Coefficients(owner=part, coefficients=chosen), (part.unsqueeze(1), columns)
                slopes = optimised_slopes(network, single, last, rows, ascent, goal[at])
                found = propagate_backward(network, last, rows, slopes=slopes)
                best = found.better(LowerBound(value=bound.value[at], run=bound.run[at]))
                bound.value[at], bound.run[at] = best.value, best.run
        return bound.unknown(network.bounds[-1].lost)

    def _tighten(self, ends: float, network: RelaxedNetwork, index: int, bounds: Bounds, unstable: Tensor) -> Bounds:
        """Narrow the limits of neurons whose activation is no line: as CROWN does, then by optimised slopes."""
        bounds = Crown(memory=self.memory).tighten(network, index, bounds, unstable)
        unstable = unstable & (bounds.low < 0) & (bounds.high > 0)
        if bounds.tight or not self.limit_steps or not network.relaxations or not bool(unstable.any()):
            return bounds
        low, high, single = bounds.low.clone(), bounds.high.clone(), network.single()
        ascent = Ascent(steps=self.limit_steps, step_size=self.step_size)
        for rows, at in unstable_rows(unstable, _room(self.memory, network.graph), network.maps(index)):
            if time.monotonic() >= ends:
                break
            slopes = optimised_slopes(network.narrow or network, single, index, rows, ascent, torch.zeros(()))
            below, above = back_to_limits(network, index, rows, slopes).run.chunk(2, 1)
            low[at] = torch.fmax(low[at], below.reshape(low[at].shape))
            high[at] = torch.fmin(high[at], -above.reshape(high[at].shape))
        return replace(bounds, low=low, high=high)


def _room(memory: int, graph: Graph) -> int:
    """Return how many rows may be optimised at once, a dozen numbers in float32 for each activation counted."""
    units = sum(step.features for step in graph.operations if isinstance(step, Activation))
    return max(2, memory // (4 * (12 * units + 8 * graph.widest)))
