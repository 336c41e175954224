"""Which certifiers can serve an audit."""

from __future__ import annotations

from trustbound.audits.parts.context import Context
from trustbound.certificates.graph.operations import Activation, MaxPool
from trustbound.certificates.registry import CERTIFIERS
from trustbound.threat import Misclassify, Target, Threat

#: ReLU-like units up to which backward bounds are worth their memory and time, by budget.
ACTIVATIONS = {"quick": 8_000, "standard": 40_000, "thorough": 400_000, "autoattack": 40_000}


def certifiers(context: Context, threat: Threat) -> tuple[list[str], str]:
    """The certifiers that serve a threat, by name, cheapest first; and what was left out, in words."""
    graph, refusal = context.subject.readable.graph, context.subject.readable.refusal
    if graph is None:
        return [], refusal
    if not isinstance(threat.goal, Misclassify | Target):
        return [], f"no proof: the goal {threat.goal} has no certifier yet"
    kept: list[str] = []
    left: list[str] = []
    units = sum(step.features for step in graph.operations if isinstance(step, Activation | MaxPool))
    for row in CERTIFIERS:
        if threat.allowed.norm not in row.norms:
            continue
        if row.name == "crown" and units > ACTIVATIONS[context.budget]:
            left.append(f"crown left out: {units} activations exceed {ACTIVATIONS[context.budget]} of this budget")
            continue
        kept.append(row.name)
    if not kept and not left:
        left.append(f"no proof: no certifier serves {threat.allowed.name}")
    return kept, "; ".join(left)
