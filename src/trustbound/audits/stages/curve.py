"""The security curve: both bounds at every epsilon at once, from distances and proven radii.

Attacks give each example a distance at which it is broken; bisection gives it a radius inside which it is proven.
Between the two lies what is not known.
"""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor

from trustbound.attacks.registry import ATTACKS
from trustbound.audits.stages.context import Context
from trustbound.audits.stages.distances import Distances
from trustbound.audits.stages.proving import ROUNDS, at_once, certifiers
from trustbound.audits.stages.verdicts import Verdicts
from trustbound.errors import InputError
from trustbound.record.audit import Curve
from trustbound.record.binomial import binomial_interval
from trustbound.record.store import EvidenceRow
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.task import Task
from trustbound.threat import Access, Misclassify, Threat

#: Points of the curve, evenly spaced from nothing to twice the audit's epsilon.
POINTS = 33


def curve_count(asked: int | None, budget: str, examples: int) -> int:
    """Examples of the curve: what was asked, else 32 for the quick budget and 100 for the others.

    Raises      InputError for anything but a whole number ≥ 0.

    >>> curve_count(None, "quick", 1000), curve_count(200, "standard", 50)
    (32, 50)
    """
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or asked < 0):
        raise InputError(
            f"`curve_examples` must be a whole number ≥ 0, or None; got {asked!r}. Give 0 for no security curve."
        )
    return min(examples, asked if asked is not None else 32 if budget == "quick" else 100)


def curve(
    context: Context,
    threat: Threat,
    verdicts: Verdicts,
    count: int,
    *,
    smooth: bool,
) -> Curve | None:
    """Distances and radii of `count` examples; verdicts at the audit's epsilon feed back to the search.

    lower ≤ upper at every point: an example counts as proven at a size only within its proven radius, and never where
    it is broken. A radius that reaches a distance, measured in float64, is a contradiction, which the verdicts keep.

    Returns None where no curve is drawn: no examples, a goal without certifiers, an adversary without gradients.
    """
    if not (count and drawable(threat, context.model.task)):
        return None
    epsilon, norm = threat.perturbations.epsilon, threat.perturbations.norm
    chosen = context.drawn("curve", torch.arange(len(context.data)), count)
    positions = chosen[verdicts.correct[chosen]]
    features = math.prod(context.data.shape)
    cap = min(threat.perturbations.diameter(context.model.box, features), 4.0 * epsilon)
    top = min(2.0 * epsilon if math.isfinite(epsilon) else cap, cap)
    epsilons = tuple(top * step / (POINTS - 1) for step in range(POINTS))
    radius, note = _radii(context, threat, verdicts, positions, cap)
    for position in positions.tolist():  # proofs of the bracket's search count here too
        if verdicts.certified_by[position]:
            radius[position] = max(radius.get(position, 0.0), min(epsilon, cap))
    found = Distances(context, threat, verdicts, epsilons, cap, smooth)
    found.search(positions, radius)
    tolerance = threat.perturbations.tolerance(context.model.box, features)
    verdicts.contradicted |= {
        position for position, proven in radius.items() if found.size.get(position, math.inf) <= proven + tolerance
    }
    stands = [
        [found.size.get(position, math.inf) > at + tolerance for position in positions.tolist()] for at in epsilons
    ]
    proven = [[radius.get(position, -1.0) >= at for position in positions.tolist()] for at in epsilons]
    total = len(chosen)
    upper = [sum(row) for row in stands]
    lower = [sum(map(operator.and_, *rows)) for rows in zip(stands, proven, strict=True)]
    if found.refusals:
        said = "; ".join(sorted(found.refusals))
        note = "; ".join(filter(None, [note, f"not every attack of the curve could be run: {said}"]))
    return Curve(
        norm=norm,
        n=total,
        epsilons=epsilons,
        upper=tuple(value / total for value in upper),
        lower=tuple(value / total for value in lower),
        upper_interval=tuple(binomial_interval(value, total) for value in upper),
        lower_interval=tuple(binomial_interval(value, total) for value in lower),
        cost=found.cost() + context.store.cost(f"{threat}/curve-proof"),
        note=note,
    )


def drawable(threat: Threat, task: Task = CLASSIFICATION) -> bool:
    """Whether distances can be searched for under a threat, in a task.

    >>> drawable(Threat.parse("linf:0.1")), drawable(Threat.parse("linf:0.1;access=scores"))
    (True, False)
    """
    fits = threat.access >= Access.GRADIENTS and ATTACKS.find("fmn").serves(threat.perturbations)
    return fits and task.smooth and isinstance(threat.goal, Misclassify) and threat.perturbations.epsilon > 0


def _radii(
    context: Context, threat: Threat, verdicts: Verdicts, positions: Tensor, cap: float
) -> tuple[dict[int, float], str]:
    provers, left_out = certifiers(context, threat)
    if not provers:
        return {}, left_out
    step = f"{threat}/curve-proof"
    sizes = torch.full((len(context.data),), cap, dtype=torch.float64)
    few = at_once(context, provers[-1], len(positions), rounds=ROUNDS)
    rows = context.run(step, "radius", positions, method=provers[-1], threat=threat, sizes=sizes, examples=few)
    proven = [
        EvidenceRow(position=row.position, found=True)
        for row in rows
        if row.size is not None and row.size >= threat.perturbations.epsilon
    ]
    verdicts.proved(step, proven)
    return {row.position: row.size for row in rows if row.found and row.size is not None}, left_out
