"""Threats: perturbation sets, goals, access, and randomness that does not depend on the batch.

Importing this package stays cheap: torch is imported when one of the names below is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustbound.lazy import lazy

if TYPE_CHECKING:
    from trustbound.threat.goals import Goal, Misclassify, Objective, ReduceConfidence, SourceTarget, Target
    from trustbound.threat.neighbourhood import Neighbourhood
    from trustbound.threat.random import Random, new_key
    from trustbound.threat.sets.ball import NORMS, NormBall
    from trustbound.threat.sets.perturbation_set import PerturbationSet
    from trustbound.threat.threat import Access, Threat

_HOMES = {
    "NORMS": "sets.ball",
    "Access": "threat",
    "Goal": "goals",
    "Misclassify": "goals",
    "Neighbourhood": "neighbourhood",
    "NormBall": "sets.ball",
    "Objective": "goals",
    "PerturbationSet": "sets.perturbation_set",
    "Random": "random",
    "ReduceConfidence": "goals",
    "SourceTarget": "goals",
    "Target": "goals",
    "Threat": "threat",
    "new_key": "random",
}

__all__ = [
    "NORMS",
    "Access",
    "Goal",
    "Misclassify",
    "Neighbourhood",
    "NormBall",
    "Objective",
    "PerturbationSet",
    "Random",
    "ReduceConfidence",
    "SourceTarget",
    "Target",
    "Threat",
    "new_key",
]


__getattr__ = lazy(__name__, _HOMES)
