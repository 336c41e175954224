"""Threats: perturbation sets, goals, access and the randomness that no neighbour disturbs."""

from trustbound.threat.goals import Goal, Misclassify, Objective, ReduceConfidence, SourceTarget, Target
from trustbound.threat.neighbourhood import Neighbourhood
from trustbound.threat.random import Random, new_key
from trustbound.threat.sets.ball import NORMS, NormBall
from trustbound.threat.sets.perturbations import PerturbationSet
from trustbound.threat.threat import Access, Threat

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
