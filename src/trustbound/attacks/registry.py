"""Every attack by name: a torch-free table that the command line, the README and the contract tests read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustbound.registry import Registry

if TYPE_CHECKING:
    from trustbound.threat import PerturbationSet


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """One attack.

    Parameters
        name        kebab-case of the paper's usual abbreviation.
        target      "module:Class" of the frozen dataclass.
        line        what it does, in one line.
        needs       least access: decisions, scores or gradients.
        norms       norm balls that it serves.
        any_set     whether it serves every other set too.
        per_column  whether its steps fit norm balls whose radii differ by input value.
        seeks       "any" success or the "smallest" change.
        linear      whether its steps take the margin for a linear function: no margin that is counted will do.
        factor      on closed-form models, at what multiple of the true radius it must succeed with its
                    default parameters.
        goals       that it serves, none for every one.
        shared      whether it fits one perturbation for all inputs.
    """

    name: str
    target: str
    line: str
    needs: str = "gradients"
    norms: tuple[str, ...] = ("linf", "l2", "l1", "l0")
    any_set: bool = False
    per_column: bool = False
    seeks: str = "any"
    linear: bool = False
    factor: float = 1.05
    goals: tuple[str, ...] = ()
    shared: bool = False

    def serves(self, perturbations: PerturbationSet) -> bool:
        """Whether it can search a set."""
        if not perturbations.norm:
            return self.any_set
        return perturbations.norm in self.norms and (self.per_column or not perturbations.per_column)

    @property
    def served(self) -> str:
        """What it serves, for people."""
        return ", ".join((*self.norms, *(("any other set",) if self.any_set else ())))


ATTACKS = Registry(
    "an attack",
    AttackRow(
        name="fgsm",
        target="trustbound.attacks.gradient.pgd:FGSM",
        line="One step of the full radius along the steepest direction.",
        norms=("linf", "l2"),
        any_set=True,
        per_column=True,
    ),
    AttackRow(
        name="bim",
        target="trustbound.attacks.gradient.pgd:BIM",
        line="FGSM repeated with small steps from the clean input.",
        norms=("linf", "l2"),
        any_set=True,
        per_column=True,
    ),
    AttackRow(
        name="pgd",
        target="trustbound.attacks.gradient.pgd:PGD",
        line="Projected gradient ascent from random points of the set.",
        factor=1.25,
        any_set=True,
        per_column=True,
    ),
    AttackRow(
        name="apgd",
        target="trustbound.attacks.gradient.apgd:APGD",
        line="Projected ascent with momentum that halves its own step size.",
        norms=("linf", "l2", "l1"),
        any_set=True,
        per_column=True,
    ),
    AttackRow(
        name="apgd-t",
        target="trustbound.attacks.gradient.apgd_targeted:TargetedAPGD",
        line="apgd towards one class after another, nearest first.",
        norms=("linf", "l2", "l1"),
        any_set=True,
        per_column=True,
    ),
    AttackRow(
        name="random",
        target="trustbound.attacks.decision.sampling:RandomSampling",
        line="Independent uniform draws from a set of few parameters.",
        needs="decisions",
        norms=(),
        any_set=True,
    ),
    AttackRow(
        name="grid",
        target="trustbound.attacks.decision.sampling:GridSearch",
        line="Every point of a regular grid over a set of few parameters.",
        needs="decisions",
        norms=(),
        any_set=True,
    ),
    AttackRow(
        name="square",
        target="trustbound.attacks.score.square:Square",
        line="Random search that changes one square at a time; needs scores only.",
        needs="scores",
        norms=("linf", "l2", "l1"),
        factor=1.5,
        any_set=True,
        per_column=True,
    ),
    AttackRow(
        name="hopskipjump",
        target="trustbound.attacks.decision.hop_skip_jump:HopSkipJump",
        line="Smallest change along the boundary, its normal estimated from decisions alone.",
        needs="decisions",
        norms=("linf", "l2"),
        per_column=True,
        seeks="smallest",
        factor=1.25,
    ),
    AttackRow(
        name="fab",
        target="trustbound.attacks.minimal.fab:FAB",
        line="Smallest change by projections onto the linearised boundary that is nearest.",
        norms=("linf", "l2", "l1"),
        seeks="smallest",
        linear=True,
    ),
    AttackRow(
        name="fab-t",
        target="trustbound.attacks.minimal.fab_targeted:TargetedFAB",
        line="fab along the boundary with one class after another, largest logit first.",
        norms=("linf", "l2", "l1"),
        seeks="smallest",
        linear=True,
    ),
    AttackRow(
        name="boundary-walk",
        target="trustbound.attacks.minimal.boundary_walk:BoundaryWalk",
        line="Crosses the boundary at any distance, then slides along it back towards the input.",
        norms=("linf", "l2", "l1"),
        linear=True,
    ),
    AttackRow(
        name="fmn",
        target="trustbound.attacks.minimal.fmn:FMN",
        line="Smallest change in any norm, by steps in a ball that closes in on the boundary.",
        seeks="smallest",
        linear=True,
    ),
    AttackRow(
        name="ddn",
        target="trustbound.attacks.minimal.ddn:DDN",
        line="Smallest l2 change: the gradient turns it, success sets its length.",
        norms=("l2",),
        seeks="smallest",
        linear=True,
    ),
    AttackRow(
        name="margin-pgd",
        target="trustbound.attacks.gradient.margin_pgd:MarginPGD",
        line="Short runs on the probability margin, from varied starts, with an exact polish.",
        any_set=True,
        per_column=True,
    ),
    AttackRow(
        name="smooth-pgd",
        target="trustbound.attacks.gradient.smooth_pgd:SmoothPGD",
        line="margin-pgd with a smooth derivative for ReLUs in the backward pass.",
        any_set=True,
        per_column=True,
    ),
    AttackRow(
        name="uap",
        target="trustbound.attacks.shared.universal:UniversalPerturbation",
        line="One perturbation for all inputs: DeepFool steps of many, added up inside one ball.",
        norms=("linf", "l2"),
        goals=("misclassify",),
        shared=True,
        linear=True,
    ),
)
