"""The steps of an audit under one threat, in order: plain rows that `stages/` carries out and `plan.py` prices.

What a step takes, its attack and parameters, its share of the examples, the certifier, stands in its row and nowhere
else, so that what is announced is what is done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from trustbound.attacks.gradient.margin_pgd import VARIED
from trustbound.attacks.registry import ATTACKS
from trustbound.attacks.suites import Rounds, Stage, rounds, shared_attacks, suite
from trustbound.certificates.registry import CERTIFIERS
from trustbound.errors import InputError
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.task import Task
from trustbound.threat import Access, Misclassify, Threat

#: Parts of an example at most, by number and not by the clock, so that the same is proven again.
PARAMS: dict[str, dict[str, Any]] = {
    "branch-and-bound": {"max_nodes": 256, "timeout": 3600.0},
    "parameter-splitting": {"max_cells": 512},
}

#: Of a block of proofs, the share that must hold for the next block to be tried.
PAYS = 1 / 32

#: That share, and how many examples are tried at most, where a certifier would be the dearest part of a budget by far.
DEAR = {("branch-and-bound", "standard"): (1 / 2, 48)}

#: Half of epsilon, which bounds of a few large margins must reach on average for others to be asked as well where that
#: takes long; `thorough` asks all.
REACHES = 1 / 4


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The checks "before" the search, a probe of the model, or "after" it, from its evidence."""

    when: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The smooth and the plain backward pass on a sample, before one of them is chosen for every climb.

    Parameters
        stage       the climb that is tried.
        examples    of the sample at most.
        opens       the climb opens the search: it does not run again on the sample.
    """

    stage: Stage
    examples: int = 64
    opens: bool

    def half(self, *, smooth: bool) -> Stage:
        """One of the two runs."""
        return replace(self.stage, name=f"trial-{'smooth' if smooth else 'plain'}")


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """A stage of the suite: the first on every example that is asked about, the others on the smallest margins."""

    stage: Stage
    first: bool = False


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One certifier on what is open, and on the control group.

    Parameters
        params      of the certifier, as JSON holds them.
        tighter     than what was proven with before: nearest bounds first, never on everything.
        pays        of a block that the certifier settles, the share from which the next block is tried.
        most        examples that it is tried on at most, the control group left out; None for no limit.
    """

    certifier: str
    params: dict[str, Any] = field(default_factory=dict)
    tighter: bool = False
    pays: float = PAYS
    most: int | None = None

    @classmethod
    def by(cls, certifier: str, budget: str) -> Proof:
        """With the parameters that an audit of a budget gives it."""
        pays, most = DEAR.get((certifier, budget), (PAYS, None))
        return cls(
            certifier=certifier,
            params=dict(PARAMS.get(certifier, {})),
            tighter=not CERTIFIERS.find(certifier).audited,
            pays=pays,
            most=most,
        )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What runs on everything that is open when no gradient reaches the inputs."""

    stage: Stage = field(default_factory=lambda: Stage(name="scores", attack="square", params={"steps": 2000}))


@dataclass(frozen=True, kw_only=True)
class UntilDry:
    """Further rounds for as long as they find."""

    rounds: Rounds


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A perturbation that all inputs share: fitted to half of the examples, `fitted` at most, and scored on all."""

    attack: str
    fitted: int = 512


@dataclass(frozen=True, kw_only=True)
class Control:
    """An attack on the control group alone."""

    stage: Stage


@dataclass(frozen=True, kw_only=True)
class SecurityCurve:
    """Radii and distances of some examples, at `points` sizes from nothing to twice the audit's epsilon.

    Parameters
        examples    of the curve.
        certifiers  by name, cheapest first.
        pays        of the curve's width, what radii of a sample must grow by for certifiers that take long to go on.
        seeker      the search for the smallest change: an attack and its parameters; None where no such search serves
                    the set, and runs of fixed size find everything.
        runs        parameters of the runs of fixed size, those of a suite's last stage. Half the steps of `fmn`'s
                    default and varied runs came closer than all of them and fewer runs, at equal cost.
    """

    examples: int
    certifiers: tuple[str, ...] = ()
    pays: float = REACHES
    points: int = 33
    seeker: tuple[str, dict[str, Any]] | None = ("fmn", {"steps": 50})
    runs: dict[str, Any] = field(default_factory=lambda: {"steps": 12, "runs": VARIED})

    @property
    def opens(self) -> str:
        """The name under which its attacks begin."""
        return "curve-attack" if self.seeker else "curve-runs"

    def placed(self, *, smooth: bool) -> tuple[str, dict[str, Any]]:
        """The attack that is run at sizes of the curve, and its parameters."""
        return "smooth-pgd" if smooth else "margin-pgd", self.runs


Step: TypeAlias = Checks | Trial | Attacks | Proof | Scores | UntilDry | Shared | Control | SecurityCurve


def steps(
    threat: Threat,
    budget: str,
    task: Task = CLASSIFICATION,
    *,
    certifiers: Sequence[str] = (),
    curve_examples: int = 0,
) -> tuple[Step, ...]:
    """All that an audit of a budget does under a threat, cheapest first; certifiers by name, cheapest first.

    Raises      InputError for an unknown budget, UnsupportedError when no attack can serve the threat.

    >>> [type(step).__name__ for step in steps(Threat.parse("linf:0.1"), "quick", certifiers=["interval", "crown"])]
    ['Checks', 'Trial', 'Attacks', 'Proof', 'Attacks', 'Scores', 'Proof', 'Control', 'Checks']
    """
    stages = suite(budget, threat, task)
    searches = [stage for stage in stages if not stage.control]
    climbs = [stage for stage in stages if stage.attack == "margin"]
    scores = Scores()
    further = rounds(budget, threat, task)
    found: list[Step] = [Checks(when="before")]
    found += [Trial(stage=climb, opens=climb is stages[0]) for climb in climbs[:1]]
    found += [Attacks(stage=searches[0], first=True)]
    found += [Proof.by(name, budget) for name in certifiers[:1]]
    found += [Attacks(stage=stage) for stage in searches[1:]]
    found += [scores] if ATTACKS.find(scores.stage.attack).serves(threat.perturbations) else []
    found += [UntilDry(rounds=further)] if further.kinds else []
    found += [Proof.by(name, budget) for name in certifiers[1:]]
    found += [Shared(attack=name) for name in shared_attacks(budget, threat, task)]
    found += [Control(stage=stage) for stage in stages if stage.control]
    if curve_examples and drawable(threat, task):
        drawn = tuple(name for name in certifiers if CERTIFIERS.find(name).audited)
        pays = 0.0 if budget == "thorough" else REACHES
        curve = SecurityCurve(examples=curve_examples, certifiers=drawn, pays=pays)
        found.append(curve if _sought(threat) else replace(curve, seeker=None))
    return (*found, Checks(when="after"))


def control_count(examples: int) -> int:
    """Examples of the control group: 5 % of them, and at least 50.

    >>> control_count(2000), control_count(30)
    (100, 30)
    """
    return min(examples, max(50, math.ceil(0.05 * examples)))


def curve_count(asked: int | None, budget: str, examples: int) -> int:
    """Examples of the curve: what was asked, else 32 for the quick budget and 100 for the others.

    Raises      InputError for anything but a whole number ≥ 0.

    >>> curve_count(None, "quick", 1000), curve_count(200, "standard", 50)
    (32, 50)
    """
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or asked < 0):
        raise InputError(
            f"`curve_examples` must be a whole number ≥ 0, or None; got {asked!r}. Give 0 for no security curve."
        )
    return min(examples, asked if asked is not None else 32 if budget == "quick" else 100)


def drawable(threat: Threat, task: Task = CLASSIFICATION) -> bool:
    """Whether distances can be searched for under a threat, in a task.

    >>> drawable(Threat.parse("linf:0.1")), drawable(Threat.parse("linf:0.1;access=scores"))
    (True, False)
    """
    fixed = threat.perturbations.per_column and ATTACKS.find("margin-pgd").serves(threat.perturbations)
    fits = threat.access >= Access.GRADIENTS and (_sought(threat) or fixed)
    return fits and task.smooth and isinstance(threat.goal, Misclassify) and threat.perturbations.epsilon > 0


def _sought(threat: Threat) -> bool:
    """Whether a search for the smallest change serves the set."""
    return ATTACKS.find("fmn").serves(threat.perturbations)
