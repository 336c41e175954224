"""Which ReLU to split: the one whose two halves have the best bounds, among those that cost the bound most."""

from __future__ import annotations

import torch
from torch import Tensor

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.graph.operations import Activation, Input
from trustbound.certificates.methods.backward import Coefficients
from trustbound.certificates.methods.relaxations import LinearRelaxation
from trustbound.certificates.verification.domains import Domains, Tree


def costs(tree: Tree, domains: Domains) -> tuple[Tensor, Tensor]:
    """Return what each unstable neuron costs the bound, (D, N), −∞ where it is split; and where the bound is reached.

    The linear bound is least at one point x of the region. Followed forward through the lines, each neuron's line is
    off from the ReLU at its own operand there: |coefficient| times that is what an exact neuron would give back at x.
    Where nothing is off the network itself reaches the bound at x. Neurons that are not off at x come last, by what
    their upper line adds at most.

    Shapes      domains D; costs (D, N); points (D, *F) float32.
    """
    off, added, points = _followed(tree, domains)
    cost = torch.zeros_like(domains.slopes)
    for index, at, part in tree.places:
        if index in off:
            cost[:, part] = (off[index] + 1e-4 * added[index]).flatten(1)[:, at]
    cost = cost.nan_to_num(0.0) + 1e-30
    return cost.masked_fill(domains.signs != 0, -torch.inf), points


def bend(tree: Tree, domain: Domains) -> tuple[tuple[int, int] | None, Tensor]:
    """Return which number of which step costs the bound of one domain most by a smooth activation of it; and points.

    None where no line is off the curve. The points are those of `costs`.
    """
    off, _, points = _followed(tree, domain)
    best, found = 0.0, None
    for index, cost in off.items():
        step = tree.network.graph.operations[index]
        if isinstance(step, Smooth):
            most, place = cost.nan_to_num(0.0).flatten().max(0)
            if float(most) > best:
                best, found = float(most), (step.sources[0], int(place))
    return found, points


def _followed(tree: Tree, domains: Domains) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
    """Follow the points at which bounds are least forward through the lines, as `costs` says.

    Returns what each activation's line is off there, times its coefficient; what upper lines of ReLUs add at most, both
    (D, *F); and the points.
    """
    met: dict[int, Coefficients] = {}
    tree.sketch(domains, met)
    found = tree.relaxed(tree.single, domains.signs)
    chosen, _ = tree.choices(found, domains.signs, domains.slopes, domains.multipliers)
    off: dict[int, Tensor] = {}
    added: dict[int, Tensor] = {}
    points = found.region.lowest(met[0].coefficients[:, 0]) if 0 in met else found.region.inputs
    values: list[Tensor] = []
    for index, step in enumerate(found.graph.operations):
        if isinstance(step, Input):
            values.append(points)
            continue
        operands = [values[source] for source in step.sources]
        exact = step.apply(*operands)
        line = found.relaxations.get(index)
        if isinstance(step, Activation | Smooth) and isinstance(line, LinearRelaxation) and index in met:
            given = met[index].coefficients[:, 0]
            lower = chosen[index][:, 0] * operands[0] if index in chosen else line.below * operands[0]
            lower = lower if line.floor is None else lower + line.floor
            followed = torch.where(given > 0, lower, line.above * operands[0] + line.shift)
            off[index] = given.abs() * (followed - exact).abs()
            added[index] = given.clamp(max=0).abs() * line.shift
            exact = followed
        values.append(exact)
    return off, added, points


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
