"""Where branching begins: the limits and the first climb of several examples together, then each alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.methods.alpha_crown import AlphaCrown
from trustbound.certificates.methods.backward import Coefficients, propagate_backward
from trustbound.certificates.methods.interval import bound_specification
from trustbound.certificates.methods.relaxed_network import RelaxedNetwork
from trustbound.certificates.methods.slopes import Ascent, optimised_slopes
from trustbound.certificates.region import Region
from trustbound.certificates.specification import LowerBound
from trustbound.certificates.verification.domains import Domains, Tree

#: Steps of the first climb, and how far it steps first.
FIRST_STEPS, STEP_SIZE = 30, 0.3

#: Examples whose first climbs go together, at most.
TOGETHER = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Root:
    """One example before anything is split.

    Shapes      rows (R, C) that are asked about; bound (R,), what the first climb proves of each.

    Parameters
        network     relaxed over the example's region, limits of unstable neurons optimised.
        slopes      for each activation with unstable neurons (R, *F): where the climb ended.
    """

    network: RelaxedNetwork
    rows: Tensor
    bound: LowerBound
    slopes: dict[int, Tensor]

    @property
    def lost(self) -> bool:
        """Whether no bound holds as the network runs, however much is split."""
        lost = self.network.bounds[-1].lost
        return lost is not None and bool(lost.any())

    def best(self, which: Tensor) -> LowerBound:
        """Return the largest bound of some rows (R,) bool, of which one above 0 is enough."""
        return LowerBound(value=self.bound.value[which].amax(), run=self.bound.run[which].amax())

    def begun(self, tree: Tree, kept: Tensor, groups: Tensor) -> Domains:
        """Return the whole region once for each group, at its best row, from where the first climb ended.

        `tree` holds the rows `kept` (K,) alone, in groups (K,) from 0.
        """
        best = [(groups == group).nonzero()[:, 0] for group in range(int(groups.max()) + 1)]
        rows = torch.stack([these[self.bound.run[kept[these]].argmax()] for these in best])
        domains = tree.whole(rows)
        for index, at, part in tree.places:
            if index in self.slopes:
                domains.slopes[:, part] = self.slopes[index][kept[rows]].flatten(1)[:, at].to(domains.slopes)
        return domains.better(LowerBound(value=self.bound.value[kept[rows]], run=self.bound.run[kept[rows]]))


def roots(graph: Graph, region: Region, rows: Tensor, memory: int, ends: float = math.inf) -> list[Root]:
    """Return the root of every example of a region, of which rows (B, R, C) are asked.

    Cost        as much as one after the other, in fewer and larger products; `memory` bounds what a product holds. When
                time `ends`, by the monotonic clock, limits are optimised no further.
    """
    network = AlphaCrown(memory=memory, limit_steps=FIRST_STEPS).limits(graph, region, ends)
    single, last = network.single(), len(graph.operations) - 1
    cheap = bound_specification(graph, region, network.bounds, rows)
    # What is above zero by some more than rounding takes is proven in float64 as well.
    goal = (2 * cheap.slack + 1e-3 * cheap.value.abs()).nan_to_num(torch.inf, torch.inf)
    found: list[Root] = []
    each = 4 * 12 * rows.shape[1] * sum(step.features for step in graph.operations)
    for part in torch.arange(len(region), device=rows.device).split(max(1, memory // each)):
        asked = Coefficients(owner=part, coefficients=rows[part])
        ascent = Ascent(steps=FIRST_STEPS, step_size=STEP_SIZE)
        slopes = optimised_slopes(network, single, last, asked, ascent, goal[part])
        bound = propagate_backward(network, last, asked, slopes=slopes)
        bound = bound.better(LowerBound(value=cheap.value[part], run=cheap.run[part]))
        lost = network.bounds[-1].lost
        bound = bound.unknown(None if lost is None else lost[part])
        for place, row in enumerate(part.tolist()):
            found.append(
                Root(
                    network=network.only(part[place : place + 1]),
                    rows=rows[row],
                    bound=LowerBound(value=bound.value[place], run=bound.run[place]),
                    slopes={index: slope[place] for index, slope in slopes.items()},
                )
            )
    return found


def together(graph: Graph, memory: int) -> int:
    """Return how many examples' limits fit into the memory beside one another."""
    return max(1, min(TOGETHER, memory // (8 * 16 * sum(step.features for step in graph.operations))))
