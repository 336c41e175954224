"""Which ReLU to split: the one whose two halves have the best bounds, among those that cost the bound most."""

from __future__ import annotations

import torch
from torch import Tensor

from trustbound.certificates.graph.operations import Activation, Input
from trustbound.certificates.methods.backward import Coefficients
from trustbound.certificates.methods.relaxations import LinearRelaxation
from trustbound.certificates.region import Region
from trustbound.certificates.verification.domains import Domains, Tree


def costs(tree: Tree, domains: Domains) -> tuple[Tensor, Tensor]:
    """Return what each unstable neuron costs the bound, (D, N), −∞ where it is split; and where the bound is reached.

    The linear bound is least at one point x of the region. Followed forward through the lines, each neuron's line is
    off from the ReLU at its own operand there: |coefficient| times that is what an exact neuron would give back at x.
    Where nothing is off the network itself reaches the bound at x. Neurons that are not off at x come last, by what
    their upper line adds at most.

    Shapes      domains D; costs (D, N); points (D, *F) float32.
    """
    met: dict[int, Coefficients] = {}
    tree.sketch(domains, met)
    found = tree.relaxed(tree.single, domains.signs)
    chosen, _ = tree.choices(found, domains.signs, domains.slopes, domains.multipliers)
    places = {index: (at, part) for index, at, part in tree.places}
    cost = torch.zeros_like(domains.slopes)
    points = farthest_point(found.region, met[0].coefficients[:, 0]) if 0 in met else found.region.inputs
    values: list[Tensor] = []
    for index, step in enumerate(found.graph.operations):
        if isinstance(step, Input):
            values.append(points)
            continue
        operands = [values[source] for source in step.sources]
        exact = step.apply(*operands)
        line = found.relaxations.get(index)
        if isinstance(step, Activation) and isinstance(line, LinearRelaxation) and index in places and index in met:
            given = met[index].coefficients[:, 0]
            upper = line.above * operands[0] + line.shift
            followed = torch.where(given > 0, chosen[index][:, 0] * operands[0], upper)
            at, part = places[index]
            off = given.abs() * (followed - exact).abs() + 1e-4 * given.clamp(max=0).abs() * line.shift
            cost[:, part] = off.flatten(1)[:, at]
            exact = followed
        values.append(exact)
    cost = cost.nan_to_num(0.0) + 1e-30
    return cost.masked_fill(domains.signs != 0, -torch.inf), points


def farthest_point(region: Region, rows: Tensor) -> Tensor:
    """Return the points (D, *F) of the limits of each region where ⟨row, x⟩ is least; of a ball about where."""
    corner = torch.where(rows > 0, region.low, region.high)
    if region.norm == "linf":
        return corner
    wide = region.radius.reshape(-1, *[1] * (rows.ndim - 1))
    flat = rows.flatten(1)
    if region.norm == "l2":
        length = torch.linalg.vector_norm(flat, 2, 1).clamp(min=1e-30).reshape(wide.shape)
        moved = region.inputs - (wide * rows / length).nan_to_num(0.0)
    else:
        peak = torch.zeros_like(flat).scatter_(1, flat.abs().argmax(1, keepdim=True), 1.0).reshape(rows.shape)
        moved = region.inputs - (wide * rows.sign() * peak).nan_to_num(0.0)
    return torch.minimum(torch.maximum(moved, region.low), region.high)


def split(tree: Tree, domains: Domains, cost: Tensor, candidates: int, at_once: int) -> Domains:
    """Return the halves (2 D) of every domain at its best neuron: the larger its worse half's bound, the better.

    Parameters
        candidates  how many of the dearest neurons are tried, each by one way back for both halves.
        at_once     domains that one way back may hold.
    """
    count = min(candidates, tree.neurons)
    dear = cost.topk(count, 1)
    if count == 1:
        return domains.halves(dear.indices[:, 0])
    each = torch.arange(len(domains), device=domains.row.device).repeat_interleave(count)
    tried = domains.select(each).halves(dear.indices.flatten())
    bounds = torch.cat([tree.sketch(tried.select(part)) for part in torch.arange(len(tried)).split(at_once)])
    # A half that is proven is done, however large its bound.
    active, inactive = bounds.nan_to_num(-torch.inf).clamp(max=0.0).reshape(2, len(domains), count)
    gained = torch.minimum(active, inactive) + 0.1 * torch.maximum(active, inactive)
    gained = gained.masked_fill(dear.values == -torch.inf, -torch.inf)
    # Where all bounds are alike, the dearest first; what is split already is never chosen.
    best = gained.argmax(1, keepdim=True)
    best = torch.where(dear.values.gather(1, best) == -torch.inf, 0, best)
    return domains.halves(dear.indices.gather(1, best)[:, 0])
