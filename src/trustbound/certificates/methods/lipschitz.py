"""A proof in l2 from the product of layer norms: no logit margin changes faster than the layers allow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.matrix_operations import Dense
from trustbound.certificates.graph.operations import Input, Linear, Operation
from trustbound.certificates.methods.interval import Bounds, bound_specification, interval_bounds
from trustbound.certificates.region import Region
from trustbound.certificates.region.ball import BallRegion
from trustbound.certificates.sensitivity.gains import gains, norms, stretched
from trustbound.certificates.sensitivity.jacobian import jacobian_bounds
from trustbound.certificates.slack import disturbance, growth, split, vanished
from trustbound.certificates.specification import Certifier, LowerBound
from trustbound.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Lipschitz(Certifier):
    """Subtract from the clean margin what the product of layer norms lets it lose.

    Bound       Lower. Deterministic: holds for every input of the region; never below `interval`.
    Needs       a network that can be read into a list of operations.  Norms: l2, l1 (‖·‖₂ ≤ ‖·‖₁), linf (by the
                region's corner: loose).
    Update      L <- norm(W) · L at a linear step, L₁ + L₂ at a sum, L · √overlap at a max pool;
                margin_j(x') ≥ margin_j(x) − r · L · ‖(e_y − e_j) W_last‖, or − r · √2 · L_all where less. With `local`
                also by the limits of the margin's gradient inside the region, which are intervals sent back.
    Shapes      region (B, *F); specification (B, K, C); returns (B, K) float64.
    Cost        the norms once per network, then one forward and an interval pass. With `local` three ways back of all
                rows besides.
    Randomness  none.
    Raises      nothing of its own.
    Reference   Szegedy et al., Intriguing properties of neural networks, 2014, arXiv:1312.6199, section 4.3;
                Tsuzuku, Sato and Sugiyama, Lipschitz-Margin Training, 2018, arXiv:1802.04034, proposition 1; for
                `local` Weng et al., Towards Fast Computation of Certified Robustness for ReLU Networks, 2018,
                arXiv:1804.09699, section 3.4.
    Deviations  convolutions through the Fourier blocks of a torus (an upper bound, no power iteration); row
                differences of the last layer in place of √2 where they are smaller.

    >>> from trustbound.certificates.graph import read
    >>> linear = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(linear.weight)
    >>> inputs, labels = torch.tensor([[0.75, 0.25]]), torch.tensor([0])
    >>> region = Region.around(inputs, (0.0, 1.0), "l2", 0.25)
    >>> Lipschitz().margins(read(linear, inputs), region, labels).value
    tensor([0.1464], dtype=torch.float64)
    """

    local: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.local) is not bool:
            raise InputError(f"`local` must be true or false; got {self.local!r}")

    def bound(self, graph: Graph, region: Region, specification: Tensor, least: bool) -> LowerBound:
        """Bound ⟨row, logits⟩ for a few examples; with `least` only the smallest of each counts."""
        found = interval_bounds(graph, region)
        cheaper = bound_specification(graph, region, found, specification)
        rates, far = gains(graph), farthest(region)
        values, drifts, lost = drifts_of(graph, region, found)
        clean = torch.bmm(specification, values[-1].unsqueeze(2)).squeeze(2)
        sizes = torch.linalg.vector_norm(specification, 2, 2)
        loss, drift = sizes * rates[-1], sizes.unsqueeze(2) * drifts[-1].unsqueeze(1)
        last = graph.operations[graph.head]
        if isinstance(last, Dense):
            source = last.sources[0]
            rows = torch.linalg.vector_norm(specification @ last.weight, 2, 2) + vanished(last.weight.shape[1])
            loss = torch.fmin(loss, rows * rates[source])
            through = rows.unsqueeze(2) * drifts[source].unsqueeze(1)
            for index in {graph.head, len(found) - 1}:
                noise = _noise(graph.operations[index], found[index])
                through = through + torch.bmm(specification.abs(), noise)
            drift = torch.fmin(drift, through)
        error = growth(graph.widest + sum(s.terms for s in graph.operations if isinstance(s, Linear)))
        fall = far.unsqueeze(1) * loss
        if self.local:
            most = max(1, self.memory // (8 * 8 * graph.widest * len(region)))
            inside = [jacobian_bounds(graph, region, found, rows).fall(region) for rows in specification.split(most, 1)]
            fall = torch.fmin(fall, torch.cat(inside, 1))
        value = clean - (1 + error) * (fall + 2 * drift[..., 0])
        run = value - (1 + error) * drift[..., 1]
        return cheaper.better(LowerBound(value=value, run=run).unknown(lost))


def drifts_of(graph: Graph, region: Region, found: list[Bounds]) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
    """Return the clean values of every step, how far in l2 each may be off (B, 2), and of whom nothing is known.

    The first column is what this evaluation rounds, the second what the network rounds anywhere in the region: a
    step's own disturbance, and that of its operands as far as the step can stretch it. Magnitudes are the better
    of the interval limits and of clean value + reach of the region, both with the disturbance so far.
    """
    rates, own_norms, far = gains(graph), norms(graph), farthest(region)
    values: list[Tensor] = []
    drifts: list[Tensor] = []
    sizes: list[Tensor] = []
    lost: Tensor | None = None
    for index, step in enumerate(graph.operations):
        if isinstance(step, Input):
            values.append(region.inputs)
            drifts.append(torch.zeros(len(region), 2, dtype=torch.float64, device=region.inputs.device))
            sizes.append(found[index].size)
            continue
        values.append(step.apply(*(values[source] for source in step.sources)))
        summed, error = disturbance(step, [sizes[source] for source in step.sources])
        error, missed = split(error)
        lost = missed if lost is None else lost if missed is None else lost | missed
        own = torch.linalg.vector_norm(_noise(step, replace(found[index], summed=summed, error=error)), 2, 1)
        drifts.append(
            stretched(step, own_norms[index], [drifts[source] for source in step.sources])
            + own * (1 + 1e-9)
            + vanished(step.features)
        )
        moved = (far * rates[index] + drifts[index].sum(1)).reshape(-1, *[1] * len(step.shape))
        sizes.append(torch.fmin(found[index].size, values[index].abs() + moved))
    return values, drifts, lost


def _noise(step: Operation, bounds: Bounds) -> Tensor:
    """Bound what each value of a step is off by, (B, features, 2): as it is evaluated here, and as the network runs."""
    summed = bounds.size if bounds.summed is None else bounds.summed
    own = growth(step.terms if isinstance(step, Linear) else 0) * summed
    error = torch.zeros_like(own) if bounds.error is None else bounds.error
    return torch.stack([own.flatten(1), error.flatten(1)], 2)


def farthest(region: Region) -> Tensor:
    """Bound the l2 distance from the inputs to the end of the region, (B,).

    >>> corner = Region.around(torch.tensor([[0.0, 0.5]]), (0.0, 1.0), "linf", 0.3)
    >>> round(float(farthest(corner)), 4)
    0.4243
    """
    ahead = torch.maximum(region.high - region.inputs, region.inputs - region.low).flatten(1)
    corner = torch.linalg.vector_norm(ahead, 2, 1) * (1 + growth(ahead.shape[1])) + vanished(ahead.shape[1])
    return torch.minimum(corner, region.radius) if isinstance(region, BallRegion) else corner
