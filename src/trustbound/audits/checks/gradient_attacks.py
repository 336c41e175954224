"""The gradient attacks of an audit's suite, and short forms of them for the probes.

A check that condemns a search must look at the losses and attacks that the search uses: what another attack of the
catalogue would have suffered is of no account.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from trustbound.attacks import Attack, build
from trustbound.attacks.gradient.margin_pgd import MarginPGD, Run
from trustbound.attacks.gradient.smooth_pgd import SmoothPGD
from trustbound.attacks.model_access.gradient_evaluation import GradientEvaluation
from trustbound.attacks.searching.problem import Problem
from trustbound.attacks.suites import Stage, suite
from trustbound.record.audit import StageFacts
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.task import Task
from trustbound.threat import Access, Threat


def planned(budget: str, threat: Threat, task: Task = CLASSIFICATION) -> tuple[Attack, ...]:
    """The gradient attacks of a budget's suite, with the plain backward pass where the suite would choose.

    >>> [type(attack).__name__ for attack in planned("standard", Threat.parse("linf:0.1"))]
    ['MarginPGD', 'MarginPGD', 'MarginPGD', 'MarginPGD', 'APGD']
    """
    return _gradient(_built(stage, smooth=False) for stage in suite(budget, threat, task))


def ran(budget: str, threat: Threat, steps: Sequence[StageFacts], task: Task = CLASSIFICATION) -> tuple[Attack, ...]:
    """The gradient attacks that a search ran, as its steps say; trials of what was not chosen are left out."""
    methods = {step.name: step.method for step in steps if step.threat == str(threat) and step.kind != "proof"}
    smooth = "smooth-pgd" in methods.values()
    return _gradient(_built(stage, smooth=smooth) for stage in suite(budget, threat, task) if stage.name in methods)


def _built(stage: Stage, *, smooth: bool) -> Attack:
    name, params = stage.method(smooth=smooth)
    return build(name, **params)


def _gradient(attacks: Iterable[Attack]) -> tuple[Attack, ...]:
    return tuple(attack for attack in attacks if attack.needs is Access.GRADIENTS)


def abridged(attacks: Sequence[Attack], steps: int) -> tuple[Attack, ...]:
    """Short forms, each once: at most `steps` steps, one restart for each loss that is climbed.

    >>> short = abridged(planned("standard", Threat.parse("linf:0.1")), 10)
    >>> [(type(attack).__name__, attack.steps, attack.restarts) for attack in short]
    [('MarginPGD', 10, 1), ('MarginPGD', 10, 1), ('APGD', 10, 1)]
    """
    kept: list[Attack] = []
    for attack in attacks:
        for short in _short(attack, steps):
            if short not in kept:
                kept.append(short)
    return tuple(kept)


def _short(attack: Attack, steps: int) -> list[Attack]:
    known = {one.name for one in dataclasses.fields(cast(Any, attack)) if one.init}
    changes: dict[str, Any] = {"steps": min(attack.steps, steps)} if "steps" in known else {}
    if isinstance(attack, MarginPGD | SmoothPGD):
        # A run with a target, and the polish, climb the logit margin; the others the attack's own loss.
        kinds = {run.target > 0 or run.start == "closest" for run in attack.runs}
        runs = [Run(target=1) if aimed else Run() for aimed in sorted(kinds)]
        if isinstance(attack, SmoothPGD):
            changes["sharpness"] = attack.sharpness[:1]
        return [dataclasses.replace(attack, **changes, runs=(run,)) for run in runs]
    for name, most in (("restarts", 1), ("targets", 2)):
        if name in known:
            changes[name] = min(getattr(attack, name), most)
    return [cast(Attack, dataclasses.replace(cast(Any, attack), **changes))]


def said(attack: Attack) -> str:
    """An attack and the loss that it climbs, in words.

    >>> said(build("apgd", loss="ce"))
    'apgd on ce'
    """
    names = {
        "MarginPGD": "margin-pgd",
        "SmoothPGD": "smooth-pgd",
        "TargetedAPGD": "apgd-t",
        "TargetedFAB": "fab-t",
        "BoundaryWalk": "boundary-walk",
    }
    kind = names.get(type(attack).__name__, type(attack).__name__.lower())
    aimed = isinstance(attack, MarginPGD | SmoothPGD) and attack.runs[0].target > 0
    climbed = "margin" if aimed else getattr(attack, "loss", "")
    return f"{kind} on {climbed}" if climbed else kind


@dataclass(frozen=True, eq=False)
class Noted:
    """What gradients one evaluation brought.

    Shapes      rows (R,) of the search; dead (R, 3) bool: all zero, some NaN, some infinite.
    """

    loss: str
    rows: Tensor
    dead: Tensor


@dataclass(eq=False)
class Noting:
    """An attack whose every gradient is noted on its way from the oracle; it searches as it always does."""

    attack: Attack
    notes: list[Noted] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the attack's own."""
        return getattr(self.attack, name)

    def step(self, problem: Problem, state: Any) -> Any:
        """One step of the attack, with its gradients noted."""
        watched = cast(Any, _Watched(problem.oracle, self.notes))
        return self.attack.step(problem.with_(oracle=watched), state)


class _Watched:
    """The oracle, noting the gradients that it gives."""

    def __init__(self, oracle: Any, notes: list[Noted]) -> None:
        self._oracle, self._notes = oracle, notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._oracle, name)

    def gradient(self, theta: Tensor, owner: Tensor, surrogate: Any, *rest: Any, **more: Any) -> GradientEvaluation:
        """The oracle's answer."""
        slope: GradientEvaluation = self._oracle.gradient(theta, owner, surrogate, *rest, **more)
        flat = slope.gradient.flatten(1)
        dead = torch.stack(((flat == 0).all(1), flat.isnan().any(1), flat.isinf().any(1)), dim=1)
        self._notes.append(Noted(str(getattr(surrogate, "loss", "")), owner.detach().cpu().clone(), dead.cpu()))
        return slope
