"""A proof in l2 from the product of layer norms: no logit margin changes faster than the layers allow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.certificates.graph.listing import Graph
from trustbound.certificates.graph.mixing import Dense
from trustbound.certificates.graph.operations import Activation, Concatenate, Input, Linear, MaxPool, Sum
from trustbound.certificates.methods.interval import conclude, reaches
from trustbound.certificates.methods.spectral import step_norm
from trustbound.certificates.region import Region
from trustbound.certificates.slack import growth, rounding
from trustbound.certificates.specification import Certifier
from trustbound.errors import UnsupportedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Lipschitz(Certifier):
    """Subtract from the clean margin what the product of layer norms lets it lose.

    Bound       Lower. Deterministic: holds for every input of the region; never below `interval`.
    Needs       a network that can be read into a list of operations.  Norms: l2, l1 (‖·‖₂ ≤ ‖·‖₁), linf (by the
                region's corner: loose).
    Update      L <- norm(W) · L at a linear step, L₁ + L₂ at a sum, L · √overlap at a max pool;
                margin_j(x') ≥ margin_j(x) − r · L · ‖(e_y − e_j) W_last‖, or − r · √2 · L_all where less.
    Shapes      region (B, *F); specification (B, K, C); returns (B, K) float64.
    Cost        the norms once per network, then one forward and an interval pass.
    Randomness  none.
    Raises      nothing of its own.
    Reference   Szegedy et al., Intriguing properties of neural networks, 2014, arXiv:1312.6199, section 4.3;
                Tsuzuku, Sato and Sugiyama, Lipschitz-Margin Training, 2018, arXiv:1802.04034, proposition 1.
    Deviations  convolutions through the Fourier blocks of a torus (an upper bound, no power iteration); row
                differences of the last layer in place of √2 where they are smaller.

    >>> from trustbound.certificates.graph import read
    >>> linear = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(linear.weight)
    >>> inputs, labels = torch.tensor([[0.75, 0.25]]), torch.tensor([0])
    >>> region = Region.around(inputs, (0.0, 1.0), "l2", 0.25)
    >>> Lipschitz().margins(read(linear, inputs), region, labels)
    tensor([0.1464], dtype=torch.float64)
    """

    def bound(self, graph: Graph, region: Region, specification: Tensor, least: bool) -> Tensor:
        """Bound ⟨row, logits⟩ for a few examples; with `least` only the smallest of each counts."""
        found = reaches(graph, region)
        cheaper = conclude(graph, region, found, specification)
        values = graph(region.inputs)
        clean = torch.bmm(specification, values.unsqueeze(2)).squeeze(2)
        gains = constants(graph)
        loss = torch.linalg.vector_norm(specification, 2, 2) * gains[-1]
        last = graph.operations[-1]
        if isinstance(last, Dense):
            rows = torch.linalg.vector_norm(specification @ last.weight, 2, 2) * gains[last.sources[0]]
            loss = torch.fmin(loss, rows)
        error = growth(graph.widest + sum(s.terms for s in graph.operations if isinstance(s, Linear)))
        noise = (
            specification.abs() * rounding(graph, [reach.size for reach in found], torch.float64).unsqueeze(1)
        ).sum(2)
        own = clean - (1 + error) * farthest(region).unsqueeze(1) * loss - 2 * noise
        return torch.fmax(cheaper, own)


def constants(graph: Graph) -> list[float]:
    """Return for every step how much faster it can change than the input, in l2; computed once per graph."""
    stored = graph.notes.get("lipschitz")
    if isinstance(stored, list):
        return stored
    gains: list[float] = []
    for step in graph.operations:
        before = [gains[source] for source in step.sources]
        if isinstance(step, Input):
            gains.append(1.0)
        elif isinstance(step, Sum):
            gains.append(sum(abs(sign) * gain for sign, gain in zip(step.signs, before, strict=True)))
        elif isinstance(step, Concatenate):
            gains.append(math.hypot(*before))
        elif isinstance(step, MaxPool):
            gains.append(before[0] * math.sqrt(step.overlap))
        elif isinstance(step, Linear):
            gains.append(before[0] * (step_norm(step) or 1.0))
        elif isinstance(step, Activation):
            gains.append(before[0] * max(1.0, step.slope))
        else:
            raise UnsupportedError(f"no Lipschitz constant: {step.where}; replace the layer or use crown")
    graph.notes["lipschitz"] = gains
    return gains


def farthest(region: Region) -> Tensor:
    """Bound the l2 distance from the inputs to the end of the region, (B,).

    >>> corner = Region.around(torch.tensor([[0.0, 0.5]]), (0.0, 1.0), "linf", 0.3)
    >>> round(float(farthest(corner)), 4)
    0.4243
    """
    ahead = torch.maximum(region.high - region.inputs, region.inputs - region.low).flatten(1)
    corner = torch.linalg.vector_norm(ahead, 2, 1) * (1 + growth(ahead.shape[1]))
    return corner if region.norm == "linf" else torch.minimum(corner, region.radius)
