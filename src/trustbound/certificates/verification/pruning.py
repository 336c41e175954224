"""A network without the neurons that a region never switches on: the same function there, in smaller matrices."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.matrix_operations import Dense
from trustbound.certificates.graph.operations import Activation, Operation
from trustbound.certificates.methods.interval import Bounds
from trustbound.certificates.methods.relaxed_network import RelaxedNetwork, relax_network


def pruned(network: RelaxedNetwork) -> RelaxedNetwork:
    """Return a network relaxed over the region of one example without its ReLUs that are 0 on all of it.

    Left out are rows and columns of matrices around a ReLU whose operand, as the network computes it, is nowhere above
    0: what it hands on is 0, and a sum rounds nothing where 0 is added. Limits of what is left stay as they are.

    >>> from trustbound.certificates.graph import read
    >>> from trustbound.certificates.methods.crown import Crown
    >>> from trustbound.certificates.region import Region
    >>> _ = torch.manual_seed(0)
    >>> module = torch.nn.Sequential(torch.nn.Linear(2, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
    >>> graph, region = read(module, torch.rand(1, 2)), Region.around(torch.rand(1, 2), (0.0, 1.0), "linf", 0.1)
    >>> small = pruned(Crown().limits(graph, region)).graph
    >>> small.operations[1].shape < (9,), bool(torch.allclose(small(region.inputs), graph(region.inputs)))
    (True, True)
    """
    graph = network.graph
    operations, kept = list(graph.operations), dict[int, Tensor]()
    for index, step in enumerate(graph.operations):
        if isinstance(step, Activation) and _between_matrices(graph, index) and not step.slope:
            source = step.sources[0]
            on = torch.nonzero(~(network.bounds[source].high[0] <= 0))[:, 0]
            if 0 < len(on) < step.features:
                kept[source] = kept[index] = on
                operations[source] = _rows(operations[source], on)
                operations[index] = replace(step, shape=(len(on),))
                for place in _readers(graph, index):
                    operations[place] = _columns(operations[place], on)
    if not kept:
        return network

    def known(_: RelaxedNetwork, index: int, bounds: Bounds, __: Tensor) -> Bounds:
        limits = network.bounds[index]
        on = kept.get(index, slice(None))
        return bounds.intersect(limits.low[:, on], limits.high[:, on])

    return relax_network(replace(graph, operations=tuple(operations), cache={}), network.region, known)


def _between_matrices(graph: Graph, index: int) -> bool:
    """Say whether an activation reads one matrix alone, and whether nothing but matrices reads it."""
    (source,) = graph.operations[index].sources
    around = [graph.operations[place] for place in (source, *_readers(graph, index))]
    plain = all(isinstance(step, Dense) and len(step.shape) == 1 and not step.parts for step in around)
    return plain and graph.readers[source] == 1 and len(around) > 1


def _readers(graph: Graph, index: int) -> list[int]:
    return [place for place, step in enumerate(graph.operations) if index in step.sources]


def _rows(step: Operation, on: Tensor) -> Dense:
    assert isinstance(step, Dense)
    bias, size = (None if part is None else part[on] for part in (step.bias, step.bias_size))
    return replace(step, shape=(len(on),), weight=step.weight[on], bias=bias, bias_size=size)


def _columns(step: Operation, on: Tensor) -> Dense:
    assert isinstance(step, Dense)
    return replace(step, weight=step.weight[:, on])
