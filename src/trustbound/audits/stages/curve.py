"""The security curve: both bounds at every epsilon at once, from distances and proven radii.

Attacks give each example a distance at which it is broken, and bounds at sizes of the curve a radius inside which it is
proven. Between the two lies what is not known.
"""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor

from trustbound.audits.planning.schedule import SecurityCurve
from trustbound.audits.stages.context import Context
from trustbound.audits.stages.distances import Distances
from trustbound.audits.stages.radii import Radii
from trustbound.audits.stages.verdicts import Verdicts
from trustbound.record.audit import Curve
from trustbound.record.binomial import binomial_interval
from trustbound.threat import Threat


def curve(
    context: Context,
    threat: Threat,
    verdicts: Verdicts,
    step: SecurityCurve,
    *,
    left_out: str,
    smooth: bool,
    clean: Tensor,
) -> Curve:
    """Distances and radii of some examples; verdicts at the audit's epsilon feed back to the search.

    Parameters
        left_out    why a certifier that there is was left out.
        clean       (N,) margins without a change.

    lower ≤ upper at every point: an example counts as proven at a size only within its proven radius, and never where
    it is broken. A radius that reaches a distance, measured in float64, is a contradiction, which the verdicts keep.
    """
    epsilon, norm = threat.perturbations.epsilon, threat.perturbations.norm
    chosen = context.drawn("curve", torch.arange(len(context.data)), step.examples)
    positions = chosen[verdicts.correct[chosen]]
    features = math.prod(context.data.shape)
    cap = min(threat.perturbations.diameter(context.model.box, features), 4.0 * epsilon)
    top = min(2.0 * epsilon if math.isfinite(epsilon) else cap, cap)
    epsilons = evenly(top, step.points, threat.perturbations.grain)
    radii = Radii(context, threat, verdicts, step.certifiers, epsilons, clean, step.pays)
    radii.search(positions)
    verdicts.radii |= radii.proven
    radius, note = radii.proven, "; ".join(filter(None, [left_out, *radii.notes]))
    found = Distances(context, threat, verdicts, step, epsilons, cap, smooth)
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
        unit=getattr(threat.perturbations, "unit", ""),
        n=total,
        epsilons=epsilons,
        upper=tuple(value / total for value in upper),
        lower=tuple(value / total for value in lower),
        upper_interval=tuple(binomial_interval(value, total) for value in upper),
        lower_interval=tuple(binomial_interval(value, total) for value in lower),
        cost=found.cost() + radii.cost(),
        note=note,
    )


def evenly(top: float, points: int, grain: float) -> tuple[float, ...]:
    """The sizes that a curve draws, from 0 to `top`: so many, or, where sizes are whole numbers, at most so many.

    >>> evenly(1.0, 5, 0.0)
    (0.0, 0.25, 0.5, 0.75, 1.0)
    >>> evenly(4.0, 33, 1.0), evenly(41.0, 33, 1.0)[-2:]
    ((0.0, 1.0, 2.0, 3.0, 4.0), (38.0, 40.0))
    """
    if not grain or top < grain:
        return tuple(top * place / (points - 1) for place in range(points))
    step = grain * math.ceil(top / grain / (points - 1))
    return tuple(step * place for place in range(math.floor(top / step) + 1))
