"""A network over a region, with lines in place of what is not linear: all that a way back needs to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import Tensor

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.normalisation import Root, Softmax
from trustbound.certificates.graph.operations import Activation, Arrange, Concatenate, Input, MaxPool, Operation, Scale
from trustbound.certificates.graph.products import Product
from trustbound.certificates.methods.backward_rounding import (
    noise,
    pays_in_single,
    single_noise,
    single_underflow,
)
from trustbound.certificates.methods.bilinear import BilinearRelaxation, relax_product
from trustbound.certificates.methods.interval import Bounds, propagate
from trustbound.certificates.methods.relaxations import (
    LinearRelaxation,
    MaxPoolRelaxation,
    relax_activation,
    relax_max_pool,
)
from trustbound.certificates.methods.share_lines import ShareRelaxation, relax_root, relax_softmax
from trustbound.certificates.methods.supporting_lines import relax_smooth
from trustbound.certificates.region import Region

Relaxation: TypeAlias = LinearRelaxation | MaxPoolRelaxation | BilinearRelaxation | ShareRelaxation

#: Steps that are lines nowhere, and up to how many numbers of an operand of theirs are worth a way back each.
BENT = Smooth | Product | Softmax | Root
WIDE = 4000


@dataclass(frozen=True, kw_only=True, eq=False)
class RelaxedNetwork:
    """A graph over a region, and what is known of it step by step.

    Parameters
        bounds      the limits of every step.
        relaxations of every step that is not linear.
        noises      (B, channels, 2), None for nothing: what a unit coefficient of each step loses to the rounding of a
                    way back, and to the network's own.
        vanished    (B,): what rows lose to underflow on the way back from each step, in all; empty in float64.
        narrow      the same in float32, where ways back in float32 pay: their bounds hold as well.
    """

    graph: Graph
    region: Region
    bounds: list[Bounds] = field(default_factory=list)
    relaxations: dict[int, Relaxation] = field(default_factory=dict)
    noises: list[Tensor | None] = field(default_factory=list)
    vanished: list[Tensor] = field(default_factory=list)
    narrow: RelaxedNetwork | None = None

    def select(self, rows: Tensor) -> RelaxedNetwork:
        """Return what a way back needs for some examples, or for one of them several times; bounds are left out."""
        return replace(
            self,
            region=self.region.select(rows),
            bounds=[],
            relaxations={index: found.select(rows) for index, found in self.relaxations.items()},
            noises=[None if noise is None else noise[rows] for noise in self.noises],
            vanished=[],
            narrow=None,
        )

    def only(self, rows: Tensor) -> RelaxedNetwork:
        """Return all that is known, of some examples."""
        return replace(
            self.select(rows),
            bounds=[found.select(rows) for found in self.bounds],
            vanished=[loss[rows] for loss in self.vanished],
            narrow=None if self.narrow is None else self.narrow.only(rows),
        )

    def maps(self, index: int) -> bool:
        """Say whether a step holds feature maps (C, H, W), and not matrices of several heads."""
        step = self.graph.operations[index]
        while isinstance(step, Scale):
            step = self.graph.operations[step.sources[0]]
        return len(step.shape) == 3 and not isinstance(step, Product | Softmax)

    def single(self) -> RelaxedNetwork:
        """Return the same in float32 and without noises: to search in, not to believe."""
        return replace(
            self,
            graph=self.graph.single(),
            region=self.region.single(),
            bounds=[],
            relaxations={index: found.single() for index, found in self.relaxations.items()},
            noises=[None] * len(self.noises),
            vanished=[],
            narrow=None,
        )


def relax_network(
    graph: Graph, region: Region, refine: Callable[[RelaxedNetwork, int, Bounds, Tensor], Bounds]
) -> RelaxedNetwork:
    """Go through a network step by step; the limits of an activation's operand are refined before it is relaxed.

    `refine` is given what is known of the steps so far, the operand's index, its limits, and where the activation is
    no line between them (B, *F). Steps that are wide and bent everywhere are relaxed between the limits that they have:
    every neuron of theirs would have to be refined, not only those on both sides of zero.
    """
    narrow = RelaxedNetwork(graph=graph.single(), region=region) if pays_in_single(graph) else None
    network, readers = RelaxedNetwork(graph=graph, region=region, narrow=narrow), graph.readers
    found, known = network.bounds, set[int]()
    for index, step in enumerate(graph.operations):
        for source in dict.fromkeys(step.sources) if isinstance(step, Activation | BENT) else ():
            low, high = found[source].low, found[source].high
            bent = (low < 0) & (high > 0) if isinstance(step, Activation) else low < high
            if isinstance(step, Activation) or (graph.operations[source].features <= WIDE and source not in known):
                found[source] = refine(network, source, found[source], bent)
            if not isinstance(step, Activation):
                known.add(source)
        relaxation = _relax(step, [found[source] for source in step.sources])
        if relaxation is not None:
            network.relaxations[index] = relaxation
        found.append(propagate(step, [found[source] for source in step.sources], region))
        silent = _silent(step, index, readers)
        shared = max((readers[source] for source in step.sources), default=0)
        network.noises.append(None if silent else noise(step, found[index], shared))
        if narrow is not None:
            if isinstance(relaxation, LinearRelaxation | MaxPoolRelaxation):
                narrow.relaxations[index] = relaxation.outward()
            narrow.noises.append(None if silent else single_noise(step, found[index], found, shared))
            narrow.vanished.append(single_underflow(step, found) + (narrow.vanished[-1] if index else 0.0))
    return network


def _relax(step: Operation, operands: list[Bounds]) -> Relaxation | None:
    """Return what stands in a step's place between the limits of its operands, None for a linear one."""
    if isinstance(step, Activation):
        return relax_activation(step, operands[0])
    if isinstance(step, Smooth):
        return relax_smooth(step, operands[0])
    if isinstance(step, MaxPool):
        return relax_max_pool(step, operands[0])
    if isinstance(step, Product):
        return relax_product(step, operands[0], operands[1])
    if isinstance(step, Softmax):
        return relax_softmax(step, operands[0])
    return relax_root(step, operands[0]) if isinstance(step, Root) else None


def _silent(step: Operation, index: int, readers: Sequence[int]) -> bool:
    """Say whether neither a step nor its way back rounds anything: it moves numbers, and nothing is added up there."""
    if isinstance(step, Input):
        return readers[index] <= 1
    moves = isinstance(step, Arrange | Concatenate) and readers[index] <= 1
    return moves and all(readers[source] <= 2 for source in step.sources)
