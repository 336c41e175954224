"""Which attacks an evaluation runs, on whom, in which order.

A suite is a list of stages. Each stage runs on the examples that are neither broken nor proven so far, those of
smallest margin first, as far as its share goes: after a good first stage, what breaks later ranks low. The shares and
parameters of `standard` were measured against the reference AutoAttack (`benchmarks/README.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trustbound.attacks.gradient.margin_pgd import VARIED, Run
from trustbound.attacks.refusals import check_goal
from trustbound.attacks.registry import ATTACKS
from trustbound.errors import InputError, UnsupportedError
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.task import Task
from trustbound.threat import Access, Threat


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One attack on a share of the examples.

    Parameters
        name        unique in the suite.
        attack      registry name; "margin" stands for `smooth-pgd` or `margin-pgd`, whichever was better on a
                    sample of this model.
        params      the attack's parameters; `sharpness` falls away where the plain backward pass was better.
        share       of the first stage's survivors, smallest margins first.
        least       examples at least, whatever the share.
        pays        a block that breaks at least this share of its examples is followed by the next block.
        replaces    stages of the budget that are left out where this one is in.
        control     a control runs on the control group alone, proven or not.
    """

    name: str
    attack: str
    params: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    least: int = 32
    pays: float = 0.02
    replaces: tuple[str, ...] = ()
    control: bool = False

    def method(self, *, smooth: bool) -> tuple[str, dict[str, Any]]:
        """The registry name and the parameters, with the smooth or the plain backward pass.

        >>> Stage(name="near", attack="margin", params={"sharpness": (16.0,)}).method(smooth=False)
        ('margin-pgd', {})
        """
        name = self.attack
        if name == "margin":
            name = "smooth-pgd" if smooth else "margin-pgd"
        return name, {key: value for key, value in self.params.items() if smooth or key != "sharpness"}

    def named(self, name: str) -> Stage:
        """The same under another name, which draws other random numbers."""
        return replace(self, name=name)


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """What a search goes on with while it still finds.

    Parameters
        kinds       in turn, cheapest first; each round draws random numbers of its own.
        limit       forwards and backwards of the whole search at most, per example that it is asked about.
        quiet       dry rounds in a row that end it, the last stage of the suite counted.
        pays        a round that breaks less than this share of what it tries is dry.
    """

    kinds: tuple[Stage, ...] = ()
    limit: int = 0
    quiet: int = 2
    pays: float = 0.02


def _margin(name: str, share: float, *runs: Run, steps: int = 10, sharpness: tuple[float, ...] = (16.0,)) -> Stage:
    return Stage(
        name=name,
        attack="margin",
        share=share,
        params={"steps": steps, "runs": runs, "sharpness": sharpness},
    )


def _walk(name: str, share: float, targets: int, *, least: int = 32, pays: float = 0.02, **params: Any) -> Stage:
    """Along the boundary; the climb inside the set and the walk outside of it find what the other does not."""
    params = {"targets": targets, "sharpness": 16.0, **params}
    return Stage(name=name, attack="boundary-walk", share=share, params=params, least=least, pays=pays)


_FIRST = _margin("first", 1.0, Run())
_WIDE = _margin("wide", 0.6, Run(target=1))
_NEAR = _margin("near", 0.2, Run(start="random"), Run(target=2))
*_KINDS, _POLISH = VARIED

SUITES: dict[str, tuple[Stage, ...]] = {
    "quick": (
        _FIRST,
        _margin("near", 0.3, Run(target=1), Run(start="random"), _POLISH),
        Stage(name="control-square", attack="square", params={"steps": 300}, control=True),
    ),
    "standard": (
        _FIRST,
        _WIDE,
        _NEAR,
        _margin("last", 0.06, *VARIED, steps=20, sharpness=(16.0, 32.0)),
        Stage(name="control-apgd", attack="apgd", params={"steps": 50}, control=True),
        Stage(name="control-square", attack="square", params={"steps": 300}, control=True),
    ),
    "thorough": (
        _FIRST,
        _margin("wide", 1.0, Run(target=1), Run(start="random")),
        _margin("near", 0.6, Run(target=2), Run(target=3), Run(start="random", coarse=True)),
        _margin("last", 0.3, *_KINDS, *VARIED, steps=30, sharpness=(16.0, 32.0, 8.0)),
        Stage(name="apgd", attack="apgd", params={"steps": 100, "loss": "ce"}, share=0.5),
        Stage(name="apgd-t", attack="apgd-t", params={"steps": 100}, share=0.3),
        Stage(name="square", attack="square", params={"steps": 5000}, share=0.2),
        Stage(name="control-square", attack="square", params={"steps": 5000}, control=True),
    ),
    # Croce and Hein 2020, `standard`.
    "autoattack": (
        Stage(name="apgd-ce", attack="apgd", params={"steps": 100, "loss": "ce"}),
        Stage(name="apgd-t", attack="apgd-t", params={"steps": 100}),
        Stage(name="fab-t", attack="fab-t", params={"steps": 100, "seeks": "any"}),
        Stage(name="square", attack="square", params={"steps": 5000, "share": 0.8}),
        Stage(name="control-square", attack="square", params={"steps": 1000}, control=True),
    ),
}


def _sparse(name: str, share: float, loss: str, steps: int, **rest: Any) -> Stage:
    """Along few coordinates, from balls of larger radius: what an l1 ball calls for, in place of dense climbs."""
    params = {"steps": steps, "loss": loss}
    return Stage(name=name, attack="apgd", share=share, params=params, replaces=("wide", "near"), **rest)


_LAST = replace(_margin("last", 0.06, *VARIED, sharpness=(16.0, 32.0)), pays=0.04)
_FAB = Stage(name="fab-t", attack="fab-t", params={"seeks": "any"}, share=0.5)

#: What follows the first stage under a set that does not limit each coordinate by itself.
_OWN: dict[tuple[str, str], tuple[Stage, ...]] = {
    ("standard", "l0"): (Stage(name="fmn", attack="fmn", params={"steps": 200}),),
    ("thorough", "l0"): (Stage(name="fmn", attack="fmn", params={"steps": 200}),),
    ("standard", "l2"): (_walk("walk", 0.6, 1), _WIDE, _NEAR, _LAST),
    ("standard", "l1"): (
        _sparse("sparse", 1.0, "probability-margin", 30),
        _sparse("sparse-ce", 0.6, "ce", 30),
        _sparse("sparse-margin", 0.4, "margin", 30),
        replace(_LAST, pays=0.1),
    ),
    ("thorough", "l2"): (_walk("walk", 1.0, 3), _FAB),
    ("thorough", "l1"): (
        _sparse("sparse", 1.0, "probability-margin", 100),
        _sparse("sparse-ce", 1.0, "ce", 100),
        _sparse("sparse-margin", 1.0, "margin", 100),
        _walk("walk", 1.0, 3),
        _FAB,
    ),
}

#: What opens the search of a set with parameters of its own: draws and a grid see as much as a gradient there.
_FEW_PARAMETERS: dict[str, tuple[Stage, ...]] = {
    "quick": (Stage(name="draws", attack="random", params={"steps": 20}),),
    "standard": (
        Stage(name="draws", attack="random", params={"steps": 50}),
        Stage(name="grid", attack="grid", params={"steps": 775}),
    ),
    "thorough": (
        Stage(name="draws", attack="random", params={"steps": 200}),
        Stage(name="grid", attack="grid", params={"steps": 10_000}),
    ),
    "autoattack": (),
}


def _placed(best: int, anywhere: int) -> Stage:
    """Climbs at the places where a patch does most, then some that begin anywhere; each stays where it begins."""
    return _margin("placed", 1.0, *(Run(start="placed"),) * best, *(Run(start="random"),) * anywhere)


#: The same of a set whose parameters are places, and many numbers besides.
_OPENING: dict[str, dict[str, tuple[Stage, ...]]] = {
    "patch": {
        "quick": (Stage(name="draws", attack="random", params={"steps": 50}), _placed(4, 0)),
        "standard": (Stage(name="draws", attack="random", params={"steps": 200}), _placed(12, 4)),
        "thorough": (Stage(name="draws", attack="random", params={"steps": 1000}), _placed(48, 16)),
        "autoattack": (),
    }
}


def _targets(share: float) -> Stage:
    """Short climbs towards each of nine classes: what stands after many runs towards few falls to other classes."""
    params = {"steps": 20, "targets": 9, "candidates": 9}
    return Stage(name="targeted", attack="apgd-t", params=params, share=share, pays=0.04)


_CHANGE = Stage(name="fmn", attack="fmn", params={"steps": 100, "seeks": "any"}, share=0.2)
_CLIMB = _margin("climb", 0.2, *_KINDS, _POLISH, steps=20, sharpness=(16.0, 32.0))
_FEW_TARGETS = Stage(name="targeted", attack="apgd-t", params={"steps": 50, "targets": 3, "candidates": 4}, share=0.2)
_FEW_FAB = Stage(name="fab-t", attack="fab-t", params={"targets": 3, "seeks": "any"}, share=0.2)
_SQUARE = Stage(name="square", attack="square", params={"steps": 1000}, share=0.2)

_STANDARD = (_CHANGE, _walk("walk", 0.2, 3, start="random"), _CLIMB, _FEW_TARGETS, _FEW_FAB, _SQUARE)

_ROUNDS = {
    "standard": Rounds(kinds=_STANDARD, limit=800),
    "thorough": Rounds(
        kinds=(
            Stage(name="fmn", attack="fmn", params={"steps": 200, "seeks": "any"}, share=0.3),
            _margin("climb", 0.3, *_KINDS, *VARIED, steps=30, sharpness=(16.0, 32.0, 8.0)),
            _walk("walk", 0.3, 9, start="random", steps=100),
            Stage(name="fab-t", attack="fab-t", params={"seeks": "any", "starts": 2}, share=0.3),
            Stage(name="square", attack="square", params={"steps": 5000}, share=0.3),
        ),
        limit=12_000,
        quiet=5,
    ),
}

_MANY_WALKS = _walk("walk", 0.3, 5, start="random", pays=0.04)

#: The rounds of a set where other kinds pay first: where the climb is at home, the walk on a few examples, a trial
#: whether it beats the climb there; under l2 and l1, where masked gradients lead past them, more classes; under l1,
#: where a climb is late to settle on its coordinates, longer ones.
_OWN_ROUNDS: dict[tuple[str, str], Rounds] = {
    ("standard", "linf"): Rounds(
        kinds=(
            _walk("walk", 0.05, 3, start="random", least=16),
            _CHANGE,
            _CLIMB,
            _FEW_TARGETS,
            _FEW_FAB,
            _SQUARE,
        ),
        limit=800,
    ),
    ("standard", "l2"): Rounds(kinds=(_targets(0.3), _MANY_WALKS, _CLIMB, _CHANGE, _FEW_FAB, _SQUARE), limit=800),
    ("standard", "l1"): Rounds(
        kinds=(
            _targets(0.2),
            _sparse("sparse-margin", 0.2, "margin", 100, pays=0.1),
            _sparse("sparse", 0.2, "probability-margin", 100, pays=0.1),
            replace(_CHANGE, pays=0.1),
            _walk("walk", 0.2, 5, start="random", pays=0.1),
            _CLIMB,
            _FEW_FAB,
            _SQUARE,
        ),
        limit=800,
    ),
}


#: What is fitted once, to half of the examples, and scored on all.
_SHARED = {"thorough": ("uap",)}


def _jumps(**params: Any) -> Stage:
    """By decisions alone."""
    return Stage(name="hopskipjump", attack="hopskipjump", params={"seeks": "any", **params})


#: What searches where no gradients show.
_BLIND: dict[Access, dict[str, Stage]] = {
    Access.SCORES: {
        "quick": Stage(name="square", attack="square", params={"steps": 500}),
        "standard": Stage(name="square", attack="square", params={"steps": 5000}),
        "thorough": Stage(name="square", attack="square", params={"steps": 5000, "restarts": 2}),
        "autoattack": Stage(name="square", attack="square", params={"steps": 5000, "share": 0.8}),
    },
    # About 1,400, 5,700 and 18,000 forwards where nothing is found, and those that the starts took.
    Access.DECISIONS: {
        "quick": _jumps(steps=10, draws=50, tries=200),
        "standard": _jumps(steps=18),
        "thorough": _jumps(steps=25, restarts=2),
    },
}


def suite(budget: str, threat: Threat, task: Task = CLASSIFICATION) -> tuple[Stage, ...]:
    """The stages of a budget that can serve a threat, in a task.

    Raises      InputError for an unknown budget, UnsupportedError when no attack can serve the threat.

    >>> [stage.name for stage in suite("quick", Threat.parse("l1:3"))]
    ['first', 'near', 'control-square']
    """
    if not isinstance(budget, str) or budget not in SUITES:
        raise InputError(f"the budget must be one of {', '.join(SUITES)}; got {budget!r}")
    check_goal(threat)
    kept = tuple(stage for stage in SUITES[budget] if _serves(stage, threat, task))
    blind = _BLIND.get(threat.access, {}).get(budget)
    if not threat.perturbations.norm:
        scored = (blind,) if blind is not None and _serves(blind, threat, task) else ()
        opening = _OPENING.get(threat.perturbations.name, _FEW_PARAMETERS)[budget]
        kept = (*opening, *scored, *(stage for stage in kept if not stage.control))
    elif threat.access is Access.GRADIENTS:
        own = _OWN.get((budget, threat.perturbations.name), ())
        kept = _with_own(kept, tuple(stage for stage in own if _serves(stage, threat, task)))
    elif blind is not None and all(stage.control for stage in kept) and _serves(blind, threat, task):
        kept = (blind, *kept)
    if not any(not stage.control for stage in kept):
        raise UnsupportedError(
            f"no attack of the budget {budget!r} serves {threat}; `trustbound list attacks` shows what each needs"
        )
    return kept


def shared_attacks(budget: str, threat: Threat, task: Task = CLASSIFICATION) -> tuple[str, ...]:
    """The attacks of a budget that fit one perturbation for all inputs, by their names.

    >>> shared_attacks("thorough", Threat.parse("l2:0.5")), shared_attacks("thorough", Threat.parse("l1:3"))
    (('uap',), ())
    """
    rows = [ATTACKS.find(name) for name in _SHARED.get(budget, ())]
    return tuple(
        row.name
        for row in rows
        if row.serves(threat.perturbations)
        and (task.smooth or not row.linear)
        and threat.access >= Access[row.needs.upper()]
        and (not row.goals or threat.goal.name in row.goals)
    )


def _with_own(stages: tuple[Stage, ...], own: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """With the set's own stages after the first, in place of what they replace."""
    replaced = {stage.name for stage in own} | {name for stage in own for name in stage.replaces}
    return (*stages[:1], *own, *(stage for stage in stages[1:] if stage.name not in replaced))


def rounds(budget: str, threat: Threat, task: Task = CLASSIFICATION) -> Rounds:
    """What the search of a budget goes on with: nothing for `quick`, and for `autoattack`, whose attacks are published.

    >>> [kind.name for kind in rounds("standard", Threat.parse("l0:9")).kinds]
    ['fmn', 'climb']
    """
    found = _OWN_ROUNDS.get((budget, threat.perturbations.name)) or _ROUNDS.get(budget, Rounds())
    return replace(found, kinds=tuple(kind for kind in found.kinds if _serves(kind, threat, task)))


def _serves(stage: Stage, threat: Threat, task: Task) -> bool:
    row = ATTACKS.find("margin-pgd" if stage.attack == "margin" else stage.attack)
    if row.linear and not task.smooth:
        return False
    return threat.access >= Access[row.needs.upper()] and row.serves(threat.perturbations)
