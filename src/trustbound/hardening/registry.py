"""Every training objective by name: a torch-free table for the command line, the README and the tests."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True, kw_only=True)
class ObjectiveRow:
    """One training objective.

    Parameters
        name        kebab-case of the paper's usual abbreviation.
        target      "module:Class" of the frozen dataclass.
        line        what it does, in one line.
        threat      whether it trains against a threat.
        lifts       the bounds that it is meant to lift.
    """

    name: str
    target: str
    line: str
    threat: bool
    lifts: str


OBJECTIVES = Registry(
    "a training objective",
    ObjectiveRow(
        name="standard",
        target="trustbound.hardening.objectives.standard:Standard",
        line="Cross-entropy on clean examples; optional label smoothing.",
        threat=False,
        lifts="clean accuracy",
    ),
    ObjectiveRow(
        name="pgd",
        target="trustbound.hardening.objectives.pgd:PGDTraining",
        line="Cross-entropy on the worst point that PGD finds for each example (Madry).",
        threat=True,
        lifts="robust accuracy",
    ),
    ObjectiveRow(
        name="fgsm-rs",
        target="trustbound.hardening.objectives.fgsm_rs:FGSMRSTraining",
        line="One FGSM step from a random start: fast, watched by a PGD probe that rolls back a collapse.",
        threat=True,
        lifts="robust accuracy",
    ),
    ObjectiveRow(
        name="free",
        target="trustbound.hardening.objectives.free:FreeTraining",
        line="Each minibatch replayed: one backward pass moves the weights and a perturbation that is handed on.",
        threat=True,
        lifts="robust accuracy",
    ),
    ObjectiveRow(
        name="trades",
        target="trustbound.hardening.objectives.trades:TradesTraining",
        line="Cross-entropy on clean examples plus a weighted divergence of the answers around them.",
        threat=True,
        lifts="robust accuracy",
    ),
    ObjectiveRow(
        name="gaussian-noise",
        target="trustbound.hardening.objectives.gaussian_noise:GaussianNoise",
        line="Cross-entropy on noisy copies of the examples, for the model that votes under that noise.",
        threat=False,
        lifts="certified radius of the smoothed model",
    ),
    ObjectiveRow(
        name="ablation",
        target="trustbound.hardening.objectives.ablation:AblationTraining",
        line="Cross-entropy on one band or block of each picture, for the model that votes over all of them.",
        threat=False,
        lifts="certified accuracy under patches of the voting model",
    ),
    ObjectiveRow(
        name="interval",
        target="trustbound.hardening.objectives.interval:IntervalTraining",
        line="Cross-entropy on the worst logits that interval arithmetic allows, at a growing radius.",
        threat=True,
        lifts="certified accuracy",
    ),
    ObjectiveRow(
        name="crown-ibp",
        target="trustbound.hardening.objectives.crown_ibp:CrownIBPTraining",
        line="Cross-entropy on the worst logits by CROWN over interval limits, handed over to intervals on the way.",
        threat=True,
        lifts="certified accuracy",
    ),
    ObjectiveRow(
        name="lipschitz",
        target="trustbound.hardening.objectives.lipschitz:LipschitzTraining",
        line="Cross-entropy plus a penalty on the spectral norms of the layers.",
        threat=False,
        lifts="certified l2 radius by layer norms",
    ),
)
