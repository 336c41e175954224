"""A network over a region, with lines in place of what is not linear: all that a way back needs to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.operations import Activation, Arrange, Concatenate, Linear, MaxPool, Operation
from trustbound.certificates.methods.interval import Bounds, propagate
from trustbound.certificates.methods.relaxations import (
    LinearRelaxation,
    MaxPoolRelaxation,
    relax_activation,
    relax_max_pool,
)
from trustbound.certificates.methods.supporting_lines import relax_smooth
from trustbound.certificates.region import Region
from trustbound.certificates.slack import growth

#: Numbers of a smooth step up to which each is worth a way back of its own.
WIDE = 4000


@dataclass(frozen=True, kw_only=True, eq=False)
class RelaxedNetwork:
    """A graph over a region, and what is known of it step by step.

    Parameters
        bounds      the limits of every step.
        relaxations of every activation and max pool.
        noises      (B, channels, 2), None for nothing: what a unit coefficient of each step loses to the rounding of a
                    way back, and to the network's own.
    """

    graph: Graph
    region: Region
    bounds: list[Bounds] = field(default_factory=list)
    relaxations: dict[int, LinearRelaxation | MaxPoolRelaxation] = field(default_factory=dict)
    noises: list[Tensor | None] = field(default_factory=list)

    def select(self, rows: Tensor) -> RelaxedNetwork:
        """Return what a way back needs for some examples, or for one of them several times; bounds are left out."""
        return replace(
            self,
            region=self.region.select(rows),
            bounds=[],
            relaxations={index: found.select(rows) for index, found in self.relaxations.items()},
            noises=[None if noise is None else noise[rows] for noise in self.noises],
        )

    def single(self) -> RelaxedNetwork:
        """Return the same in float32 and without noises: to search in, not to believe."""
        return replace(
            self,
            graph=self.graph.single(),
            region=self.region.single(),
            bounds=[],
            relaxations={index: found.single() for index, found in self.relaxations.items()},
            noises=[None] * len(self.noises),
        )


def relax_network(
    graph: Graph, region: Region, refine: Callable[[RelaxedNetwork, int, Bounds, Tensor], Bounds]
) -> RelaxedNetwork:
    """Go through a network step by step; the limits of an activation's operand are refined before it is relaxed.

    `refine` is given what is known of the steps so far, the operand's index, its limits, and where the activation is
    no line between them (B, *F). Smooth steps that are wide are relaxed between the limits that they have: every neuron
    of theirs would have to be refined, not only those on both sides of zero.
    """
    network, silent = RelaxedNetwork(graph=graph, region=region), _silent(graph)
    found = network.bounds
    for index, step in enumerate(graph.operations):
        if isinstance(step, Activation | Smooth):
            source = step.sources[0]
            low, high = found[source].low, found[source].high
            bent = (low < 0) & (high > 0) if isinstance(step, Activation) else low < high
            if isinstance(step, Activation) or step.features <= WIDE:
                found[source] = refine(network, source, found[source], bent)
            limits = found[source]
            straight = relax_activation(step, limits) if isinstance(step, Activation) else relax_smooth(step, limits)
            network.relaxations[index] = straight
        elif isinstance(step, MaxPool):
            network.relaxations[index] = relax_max_pool(step, found[step.sources[0]])
        found.append(propagate(step, [found[source] for source in step.sources], region))
        network.noises.append(None if index in silent else _noise(step, found[index]))
    return network


def _silent(graph: Graph) -> set[int]:
    """Return the steps that only move numbers of one reader: neither they nor their way back round anything."""
    readers = Counter(source for step in graph.operations for source in step.sources)
    return {
        index
        for index, step in enumerate(graph.operations)
        if isinstance(step, Arrange | Concatenate) and readers[index] <= 1
    }


def _noise(step: Operation, bounds: Bounds) -> Tensor:
    """Bound what a unit coefficient of a step loses, (B, channels, 2): to its way back, and to the network's rounding.

    What the product of rows and a step rounds is at most γ · Σ|coefficients| · magnitudes that the step sums.
    """
    summed = bounds.size if bounds.summed is None else torch.maximum(bounds.summed, bounds.size)
    own = growth(step.features + (step.terms if isinstance(step, Linear) else 0)) * summed
    parts = [part if part.ndim == 2 else part.flatten(2).amax(2) for part in (own, bounds.error) if part is not None]
    return torch.stack(parts if len(parts) == 2 else [parts[0], torch.zeros_like(parts[0])], 2)
