"""The security curve: both bounds at every epsilon at once, from distances and proven radii.

An attack for the smallest change gives each example a distance at which it is broken; bisection gives it a radius
inside which it is proven. Between the two lies what is not known.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from trustbound.attacks import build
from trustbound.attacks.registry import find
from trustbound.audits.context import Context, Unit
from trustbound.audits.parts.attacking import attack_unit
from trustbound.audits.parts.ledger import Ledger
from trustbound.audits.parts.proving import Proofs, certifiers
from trustbound.certificates.radius import certified_radius
from trustbound.errors import ModelError, UnsupportedError
from trustbound.model.wrapping import Model
from trustbound.record.audit import Curve
from trustbound.record.cost import Cost
from trustbound.record.interval import binomial_interval
from trustbound.record.store import EvidenceRow
from trustbound.threat import Access, Misclassify, NormBall, Threat

#: Points of the curve, evenly spaced from nothing to twice the audit's epsilon.
POINTS = 33


def curve_count(asked: int | None, budget: str, examples: int) -> int:
    """Examples of the curve: what was asked, else 32 for the quick budget and 100 for the others.

    >>> curve_count(None, "quick", 1000), curve_count(200, "standard", 50)
    (32, 50)
    """
    return min(examples, asked if asked is not None else 32 if budget == "quick" else 100)


def curve(
    context: Context, threat: Threat, proofs: Proofs, double: Model | None, ledger: Ledger, count: int
) -> Curve | None:
    """Distances and radii of `count` examples; verdicts at the audit's epsilon feed back to the ledger.

    Returns None where no attack for the smallest change serves the threat.
    """
    row = find("fmn")
    epsilon = threat.allowed.epsilon
    fits = threat.access >= Access.GRADIENTS and threat.allowed.norm in row.norms
    if not (count and fits and isinstance(threat.goal, Misclassify) and epsilon > 0):
        return None
    chosen = context.drawn("curve", torch.arange(len(context.data)), count)
    places = chosen[ledger.correct[chosen]]
    features = math.prod(context.data.shape)
    cap = min(context.model.box.diameter(threat.allowed.norm, features), 4.0 * epsilon)
    distance = _distances(context, threat, double, ledger, places, cap)
    radius, note = _radii(context, threat, proofs, ledger, places, cap)
    # Witnesses and proofs of the bracket search count here too.
    for place in places.tolist():
        if ledger.broken_by[place]:
            distance[place] = min(distance.get(place, math.inf), float(ledger.size[place]))
        elif ledger.certified_by[place]:
            radius[place] = max(radius.get(place, 0.0), epsilon)
    top = min(2.0 * epsilon if math.isfinite(epsilon) else cap, cap)
    epsilons = tuple(top * step / (POINTS - 1) for step in range(POINTS))
    total = len(chosen)
    tolerance = threat.allowed.tolerance(context.model.box, features)
    upper = [sum(distance.get(place, math.inf) > at + tolerance for place in places.tolist()) for at in epsilons]
    lower = [sum(radius.get(place, 0.0) >= at for place in places.tolist()) for at in epsilons]
    if not radius:
        lower[0] = 0
    return Curve(
        norm=threat.allowed.norm,
        n=total,
        epsilons=epsilons,
        upper=tuple(value / total for value in upper),
        lower=tuple(value / total for value in lower),
        upper_interval=tuple(binomial_interval(value, total) for value in upper),
        lower_interval=tuple(binomial_interval(value, total) for value in lower),
        cost=context.store.cost(f"{threat}/curve-attack") + context.store.cost(f"{threat}/curve-proof"),
        note=note,
    )


def _distances(
    context: Context, threat: Threat, double: Model | None, ledger: Ledger, places: Tensor, cap: float
) -> dict[int, float]:
    step = f"{threat}/curve-attack"
    wide = Threat(NormBall(threat.allowed.norm, cap), threat.goal, threat.access)
    attack = build("fmn")

    def work(rows: Tensor, shard: int) -> Unit:
        try:
            return attack_unit(context, wide, attack, step, rows, shard, double)
        except (UnsupportedError, ModelError) as error:
            kept = [EvidenceRow(position=position, found=False) for position in rows.tolist()]
            return Unit(rows=kept, cost=Cost(), events=(str(error),))

    rows = context.run(step, places, work)
    reach = threat.allowed.epsilon + threat.allowed.tolerance(context.model.box, math.prod(context.data.shape))
    inside = [row for row in rows if row.found and row.size is not None and row.size <= reach]
    ledger.attacked(step, inside)
    return {row.position: row.size for row in rows if row.found and row.size is not None}


def _radii(
    context: Context, threat: Threat, proofs: Proofs, ledger: Ledger, places: Tensor, cap: float
) -> tuple[dict[int, float], str]:
    provers, left_out = certifiers(context, proofs, threat)
    graph = proofs.graph
    if not provers or graph is None:
        return {}, left_out
    step = f"{threat}/curve-proof"
    _, certifier = provers[-1]
    features = math.prod(context.data.shape)
    tolerance = threat.allowed.tolerance(context.model.box, features)

    def work(rows: Tensor, shard: int) -> Unit:
        started = time.perf_counter()
        try:
            radius = certified_radius(
                certifier,
                graph,
                context.inputs(rows),
                context.labels(rows),
                context.model.box,
                threat.allowed.norm,
                cap=cap,
                steps=8,
                tolerance=tolerance,
            ).tolist()
            events: tuple[str, ...] = ()
        except UnsupportedError as error:
            radius, events = [0.0] * len(rows), (str(error),)
        found = [
            EvidenceRow(position=position, found=value > 0.0, size=value)
            for position, value in zip(rows.tolist(), radius, strict=True)
        ]
        return Unit(rows=found, cost=Cost(seconds=time.perf_counter() - started), events=events)

    rows = context.run(step, places, work)
    proven = [
        EvidenceRow(position=row.position, found=True)
        for row in rows
        if row.size is not None and row.size >= threat.allowed.epsilon
    ]
    ledger.proved(step, proven)
    return {row.position: row.size for row in rows if row.found and row.size is not None}, left_out
