"""CROWN: backward linear bounds, batched over examples, neurons and rows, with limits only where they matter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.methods.backward import Coefficients, propagate_backward
from trustbound.certificates.methods.interval import Bounds, bound_specification
from trustbound.certificates.methods.relaxed_network import RelaxedNetwork, relax_network
from trustbound.certificates.methods.windows import Window, span
from trustbound.certificates.region import Region
from trustbound.certificates.specification import Certifier, LowerBound


@dataclass(frozen=True, kw_only=True, eq=False)
class Crown(Certifier):
    """Bound rows over the logits by going back to the input with one line per activation and sign.

    Bound       Lower. Deterministic: holds for every input of the region; never below `interval`.
    Needs       a network that can be read into a list of operations.  Norms: linf, l2, l1, l0.
    Update      rows <- rows · W;  at a ReLU positive coefficients take the line below (slope 1 where
                high ≥ −low, else 0), negative ones the chord above; at a smooth activation the lines that support
                it in the middle of its limits; at the input the dual norm.
                Every activation's limits come first, by the same way back, for the neurons that the intervals of the
                limits found so far leave where it is no line.
    Shapes      region (B, *F); specification (B, K, C); returns (B, K) float64.
    Cost        two backward passes per unstable neuron, one per row. Neurons of a convolution go back in
                windows as large as their receptive field; work is cut so that it fits `memory`.
    Randomness  none.
    Raises      nothing of its own.
    Reference   Zhang et al., Efficient Neural Network Robustness Certification with General Activation
                Functions, 2018, arXiv:1811.00866, theorem 3.2, corollary 3.3 and section 3.3.
    Deviations  limits are the better of CROWN's and of intervals pushed on from earlier CROWN limits; max pools
                hand their coefficients to the operand with the largest lower limit; l2 and l1 balls are
                concretised together with the box; rounding is taken off at every step; smooth steps of more than
                4,000 numbers keep the limits of intervals. Neurons of networks of more than 2²⁰ products go back in
                float32, which loosens their limits by what that may round; rows over the logits never do.

    >>> from trustbound.certificates.graph import read
    >>> _ = torch.manual_seed(0)
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> inputs, labels = torch.full((1, 4), 0.5), torch.tensor([0])
    >>> graph, region = read(network, inputs), Region.around(inputs, (0.0, 1.0), "linf", 0.1)
    >>> from trustbound.certificates.methods.interval import Interval
    >>> bool(Crown().margins(graph, region, labels).run > Interval().margins(graph, region, labels).run)
    True
    """

    def bound(self, graph: Graph, region: Region, specification: Tensor, least: bool) -> LowerBound:
        """Bound ⟨row, logits⟩ for a few examples; with `least` only the smallest of each counts."""
        network = self.limits(graph, region)
        bound = bound_specification(graph, region, network.bounds, specification).separate()
        owner = torch.arange(len(region), device=specification.device)
        needed = torch.ones_like(bound.run, dtype=torch.bool)
        if least:
            # The true minimum is at most its value at the centre: rows proven above it cannot be the smallest.
            clean = torch.bmm(specification, graph(region.inputs).unsqueeze(2)).squeeze(2)
            needed = ~(bound.run > clean.amin(1, keepdim=True))
        order = needed.to(torch.int8).argsort(stable=True, dim=1, descending=True)[:, : int(needed.sum(1).amax())]
        last, most = len(graph.operations) - 1, room(self.memory, graph)
        for part in owner.split(max(1, most // max(1, order.shape[1]))):
            for columns in order[part].split(most, 1):
                rows = specification[part].gather(1, columns.unsqueeze(2).expand(-1, -1, specification.shape[2]))
                backward = propagate_backward(network, last, Coefficients(owner=part, coefficients=rows))
                at = (part.unsqueeze(1), columns)
                best = backward.better(LowerBound(value=bound.value[at], run=bound.run[at]))
                bound.value[at], bound.run[at] = best.value, best.run
        return bound.unknown(network.bounds[-1].lost)

    def limits(self, graph: Graph, region: Region) -> RelaxedNetwork:
        """Return every step's limits, every activation's relaxation, and what a coefficient of each step loses."""
        return relax_network(graph, region, self.tighten)

    def tighten(self, network: RelaxedNetwork, index: int, bounds: Bounds, unstable: Tensor) -> Bounds:
        """Narrow the limits of the neurons whose activation is no line by going back from each."""
        if bounds.tight or not bool(unstable.any()):
            return bounds
        low, high = bounds.low.clone(), bounds.high.clone()
        size = group_size(self.memory, network, index)
        for rows, at in unstable_rows(unstable, size, network.maps(index)):
            below, above = back_to_limits(network, index, rows).run.chunk(2, 1)
            low[at] = torch.fmax(low[at], below.reshape(low[at].shape))
            high[at] = torch.fmin(high[at], -above.reshape(high[at].shape))
        return replace(bounds, low=low, high=high)


#: Bytes of one group's widest rows that still stay near the processor.
NEAR = 1 << 22


def group_size(memory: int, network: RelaxedNetwork, index: int) -> int:
    """Return how many rows over a step go back together: few enough to stay in the cache, and within the memory."""
    each = span(network.graph, index) * (8 if network.narrow is None else 4)
    return max(2, min(memory // (8 * each), NEAR // each))


def back_to_limits(
    network: RelaxedNetwork, index: int, rows: Coefficients, slopes: Mapping[int, Tensor] | None = None
) -> LowerBound:
    """Bound rows over a step that is no output: in float32 where that pays. `slopes` are those of that precision."""
    if network.narrow is None:
        return propagate_backward(network, index, rows, slopes=slopes)
    return propagate_backward(network.narrow, index, rows.single(), slopes=slopes)


def room(memory: int, graph: Graph) -> int:
    """Return how many rows over the widest step may be alive at once, eight copies of each counted."""
    return max(2, memory // (8 * 8 * graph.widest))


def unstable_rows(unstable: Tensor, room: int, maps: bool) -> Iterator[tuple[Coefficients, tuple[Tensor, ...]]]:
    """Yield rows ± for the unstable neurons (B, *F) of a step, at most `room` at once, and where they stand in it.

    With `maps` the step holds feature maps, whose neurons see a window each.
    The first half of the rows of each group is for limits from below, the second for those from above.
    """
    return (_neurons if maps else _features)(unstable, room)


def _neurons(unstable: Tensor, room: int) -> Iterator[tuple[Coefficients, tuple[Tensor, ...]]]:
    """Yield one group for each neuron of a feature map: plus and minus its channel, in a window of one."""
    channels = unstable.shape[1]
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64, device=unstable.device)
    for at in unstable.nonzero().split(max(1, room // 2)):
        owner, channel = at[:, 0], at[:, 1]
        coefficients = torch.zeros(len(at), 2, channels, dtype=torch.float64, device=unstable.device)
        coefficients[torch.arange(len(at), device=at.device), :, channel] = signs
        window = Window(positions=at[:, 2:])
        rows = Coefficients(owner=owner, coefficients=coefficients[..., None, None], window=window)
        yield rows, tuple(at.unbind(1))


def _features(unstable: Tensor, room: int) -> Iterator[tuple[Coefficients, tuple[Tensor, ...]]]:
    """Yield one group for each example: plus its unstable features, then minus; short groups repeat the last."""
    flat = unstable.flatten(1)
    counts, width = flat.sum(1), flat.shape[1]
    busy = counts.argsort()
    busy = busy[counts[busy] > 0]
    start = 0
    while start < len(busy):
        # Groups are sorted by size: take as many as still fit once padded to the largest of them.
        stop = start + 1
        while stop < len(busy) and (stop + 1 - start) * 2 * int(counts[busy[stop]]) <= room:
            stop += 1
        owner = busy[start:stop]
        start = stop
        most = int(counts[owner].amax())
        index = flat[owner].to(torch.int8).argsort(stable=True, dim=1, descending=True)[:, :most]
        spare = torch.arange(most, device=flat.device) >= counts[owner].unsqueeze(1)
        index = torch.where(spare, index[:, :1], index)
        for columns in index.split(max(1, room // 2), 1):
            plus = torch.nn.functional.one_hot(columns, width).double()
            coefficients = torch.cat([plus, -plus], 1).unflatten(2, unstable.shape[1:])
            at = torch.unravel_index(columns, unstable.shape[1:])
            yield Coefficients(owner=owner, coefficients=coefficients), (owner.unsqueeze(1), *at)
