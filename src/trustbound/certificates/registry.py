"""The certifiers there are: torch-free rows that the command line, the README and the contract tests read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustbound.registry import Registry

if TYPE_CHECKING:
    from trustbound.threat.sets.perturbation_set import PerturbationSet


@dataclass(frozen=True, kw_only=True)
class CertifierRow:
    """One certifier: its name, where its class is, one line about it, and what it serves.

    quadratic   its time grows with the square of the network's activations.
    audited     audits run it among their proofs; the others are asked for by name.
    layers      it bounds the layers of a network over a norm ball; the others bound what they say.
    changes     sets that are no norm balls and that it serves; those that may be joined, also one after another.
    reads       it is about the list of operations that a network is read into, not about a model as it answers.
    """

    name: str
    target: str
    line: str
    norms: tuple[str, ...]
    deterministic: bool
    paper: str
    quadratic: bool = False
    audited: bool = True
    layers: bool = True
    changes: tuple[str, ...] = ()
    reads: bool = True

    def serves(self, perturbations: PerturbationSet) -> bool:
        """Whether it has proofs under a set of perturbations."""
        if perturbations.norm:
            return perturbations.norm in self.norms
        return set(perturbations.name.split(",")) <= set(self.changes)

    @property
    def sets(self) -> tuple[str, ...]:
        """All that it serves, by name."""
        return (*self.norms, *self.changes)


CERTIFIERS = Registry(
    "a certifier",
    CertifierRow(
        name="interval",
        target="trustbound.certificates.methods.interval:Interval",
        line="limits of every number pushed forward; cheap, tight only for networks trained for it",
        norms=("linf", "l2", "l1", "l0"),
        deterministic=True,
        paper="Gowal et al. 2018, arXiv:1810.12715",
    ),
    CertifierRow(
        name="lipschitz",
        target="trustbound.certificates.methods.lipschitz:Lipschitz",
        line="clean margin minus radius × product of layer norms; made for l2",
        norms=("linf", "l2", "l1"),
        deterministic=True,
        paper="Szegedy et al. 2014, arXiv:1312.6199; Tsuzuku et al. 2018, arXiv:1802.04034",
    ),
    CertifierRow(
        name="crown",
        target="trustbound.certificates.methods.crown:Crown",
        line="backward linear bounds with one line per ReLU; dearer and far tighter",
        norms=("linf", "l2", "l1", "l0"),
        deterministic=True,
        paper="Zhang et al. 2018, arXiv:1811.00866",
        quadratic=True,
    ),
    CertifierRow(
        name="alpha-crown",
        target="trustbound.certificates.methods.alpha_crown:AlphaCrown",
        line="CROWN with the lower slopes of unstable ReLUs optimised for each row; a few times dearer, tighter",
        norms=("linf", "l2", "l1", "l0"),
        deterministic=True,
        paper="Xu et al. 2021, arXiv:2011.13824",
        quadratic=True,
        audited=False,
    ),
    CertifierRow(
        name="branch-and-bound",
        target="trustbound.certificates.verification.branch_and_bound:BranchAndBound",
        line="complete for ReLU networks under linf: ReLUs split until all is proven, or a counterexample is found",
        norms=("linf", "l2", "l1", "l0"),
        deterministic=True,
        paper="Wang et al. 2021, arXiv:2103.06624; Bunel et al. 2020, arXiv:1909.06588",
        quadratic=True,
        audited=False,
    ),
    CertifierRow(
        name="smoothing",
        target="trustbound.certificates.methods.smoothing:Smoothing",
        line="votes under noise: of the smoothed model, with a stated confidence; any model, thousands of forwards",
        norms=("l2", "l1"),
        deterministic=False,
        paper="Cohen et al. 2019, arXiv:1902.02918; Yang et al. 2020, arXiv:2002.08118",
        audited=False,
        layers=False,
        reads=False,
    ),
    CertifierRow(
        name="trees",
        target="trustbound.certificates.methods.trees:TreeSearch",
        line="of tree ensembles (scikit-learn, LightGBM, XGBoost): a search over leaves that meet; extra [trees]",
        norms=("linf",),
        deterministic=True,
        paper="Devos, Meert and Davis 2021, arXiv:2010.13880",
        quadratic=True,
        layers=False,
        reads=False,
    ),
    CertifierRow(
        name="parameter-splitting",
        target="trustbound.certificates.methods.parameter_splitting:ParameterSplitting",
        line="parameters split into cells, the pixels of each enclosed in a box that crown bounds",
        norms=(),
        changes=("rotation", "translation", "brightness"),
        deterministic=True,
        paper="Singh et al. 2019, 10.1145/3290354",
        quadratic=True,
        layers=False,
    ),
    CertifierRow(
        name="ablation",
        target="trustbound.certificates.methods.ablation:Ablation",
        line="votes over bands or blocks, of which a patch meets few: of the model that votes; any model of pictures",
        norms=(),
        changes=("patch",),
        deterministic=True,
        paper="Levine and Feizi 2020, arXiv:2002.10733",
        layers=False,
        reads=False,
    ),
)
