"""The proofs of an audit: which certifiers can serve, and one proof step on examples."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from torch import Tensor

from trustbound.audits.context import Context, Unit
from trustbound.certificates import certify
from trustbound.certificates.graph import Graph, read
from trustbound.certificates.graph.operations import Activation, MaxPool
from trustbound.certificates.registry import CERTIFIERS
from trustbound.certificates.specification import Certifier
from trustbound.errors import UnsupportedError
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow
from trustbound.threat import Misclassify, Target, Threat

#: ReLU-like units up to which backward bounds are worth their memory and time, by budget.
ACTIVATIONS = {"quick": 8_000, "standard": 40_000, "thorough": 400_000, "autoattack": 40_000}


@dataclass(frozen=True, eq=False)
class Proofs:
    """What can be proven about a model: its list of operations, or why there is none."""

    graph: Graph | None
    refusal: str = ""


def prepare(context: Context, sample: Tensor) -> Proofs:
    """Read the model into a list of operations; a model that cannot be read is a finding, not a failure."""
    if context.model.shows != "gradients":
        return Proofs(None, f"no proof: only {context.model.shows} of the model are seen, and no layers to bound")
    try:
        return Proofs(read(context.model, context.inputs(sample)))
    except UnsupportedError as error:
        text = str(error)
        return Proofs(None, text if text.startswith("no proof") else f"no proof: {text}")
    except Exception as error:  # the model's own, under export or in float64: a finding too
        first = (str(error).splitlines() or [""])[0] or "no message"
        return Proofs(None, f"no proof: the model cannot be read, which raised {type(error).__name__}: {first}")


def certifiers(context: Context, proofs: Proofs, threat: Threat) -> tuple[list[tuple[str, Certifier]], str]:
    """The certifiers that serve a threat, cheapest first; and what was left out, in words."""
    if proofs.graph is None:
        return [], proofs.refusal
    if not isinstance(threat.goal, Misclassify | Target):
        return [], f"no proof: the goal {threat.goal} has no certifier yet"
    kept: list[tuple[str, Certifier]] = []
    left: list[str] = []
    units = sum(step.features for step in proofs.graph.operations if isinstance(step, Activation | MaxPool))
    for row in CERTIFIERS:
        if threat.allowed.norm not in row.norms:
            continue
        if row.name == "crown" and units > ACTIVATIONS[context.budget]:
            left.append(f"crown left out: {units} activations exceed {ACTIVATIONS[context.budget]} of this budget")
            continue
        kept.append((row.name, CERTIFIERS.build(row.name)))
    if not kept and not left:
        left.append(f"no proof: no certifier serves {threat.allowed.name}")
    return kept, "; ".join(left)


def proof_unit(context: Context, graph: Graph, certifier: Certifier, threat: Threat, positions: Tensor) -> Unit:
    """Bound the margins of examples from below over ball ∩ box, for ε + τ."""
    started = time.perf_counter()
    inputs, labels = context.inputs(positions), context.labels(positions)
    try:
        proof = certify(certifier, graph, inputs, labels, threat, box=context.model.box)
    except UnsupportedError as error:
        rows = [EvidenceRow(position=position, found=False) for position in positions.tolist()]
        return Unit(rows=rows, cost=Cost(seconds=time.perf_counter() - started), events=(str(error),))
    rows = [
        EvidenceRow(
            position=position,
            found=certified,
            margin=margin if math.isfinite(margin) else None,
            tie=margin > 0 and not certified,  # proven in exact arithmetic, lost to rounding
        )
        for position, certified, margin in zip(
            positions.tolist(), proof.certified.tolist(), proof.margin.tolist(), strict=True
        )
    ]
    return Unit(rows=rows, cost=Cost(seconds=time.perf_counter() - started))
