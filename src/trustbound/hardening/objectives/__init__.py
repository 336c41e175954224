"""Training objectives: what a network is asked to do well on, one idea per file."""

from trustbound.hardening.objectives.ablation import AblationTraining
from trustbound.hardening.objectives.context import Batch, Context, Position
from trustbound.hardening.objectives.crown_ibp import CrownIBPTraining
from trustbound.hardening.objectives.fgsm_rs import FGSMRSTraining
from trustbound.hardening.objectives.free import FreeTraining
from trustbound.hardening.objectives.gaussian_noise import GaussianNoise
from trustbound.hardening.objectives.interval import IntervalTraining
from trustbound.hardening.objectives.lipschitz import LipschitzTraining
from trustbound.hardening.objectives.objective import (
    Metrics,
    Outcome,
    State,
    TrainingObjective,
    build,
    name_of,
    params_of,
)
from trustbound.hardening.objectives.pgd import PGDTraining
from trustbound.hardening.objectives.standard import Standard
from trustbound.hardening.objectives.trades import TradesTraining

__all__ = [
    "AblationTraining",
    "Batch",
    "Context",
    "CrownIBPTraining",
    "FGSMRSTraining",
    "FreeTraining",
    "GaussianNoise",
    "IntervalTraining",
    "LipschitzTraining",
    "Metrics",
    "Outcome",
    "PGDTraining",
    "Position",
    "Standard",
    "State",
    "TradesTraining",
    "TrainingObjective",
    "build",
    "name_of",
    "params_of",
]
