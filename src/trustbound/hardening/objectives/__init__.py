"""Training objectives: what a network is asked to do well on, one idea per file."""

from trustbound.hardening.objectives.fgsm_rs import FGSMRSTraining
from trustbound.hardening.objectives.learner import Learner
from trustbound.hardening.objectives.objective import TrainingObjective, build, name_of, numbers_of
from trustbound.hardening.objectives.pgd import PGDTraining
from trustbound.hardening.objectives.standard import Standard

__all__ = [
    "FGSMRSTraining",
    "Learner",
    "PGDTraining",
    "Standard",
    "TrainingObjective",
    "build",
    "name_of",
    "numbers_of",
]
