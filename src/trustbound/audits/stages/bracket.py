"""The bracket search: attacks from above and proofs from below, pruning each other.

Cheapest first: a short attack on every correctly classified example, the cheapest proof on what is left, dearer
attacks on the smallest margins, then the tighter proofs. An example that is broken or proven is left alone by
whatever follows, except in the control group: there every attack and every proof runs, so that a certificate can
be caught by an attack and an attack by a control.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

import torch
from torch import Tensor

from trustbound.attacks.suites import Stage
from trustbound.audits.planning.schedule import (
    Attacks,
    Checks,
    Control,
    Proof,
    Scores,
    SecurityCurve,
    Shared,
    Step,
    Trial,
    UntilDry,
)
from trustbound.audits.stages.clean import logit_scale
from trustbound.audits.stages.context import Context
from trustbound.audits.stages.proofs import prove
from trustbound.audits.stages.rounds import until_dry
from trustbound.audits.stages.shared_perturbation import Sharing
from trustbound.audits.stages.verdicts import Round, Verdicts, stage_facts
from trustbound.audits.stages.white_and_black_box import sees_gradients, sides
from trustbound.audits.work_units.attack import REFUSED
from trustbound.audits.work_units.unit import UnitResult, WorkUnit
from trustbound.record.audit import UNCONCERNED, Bracket, SharedFacts, StageFacts
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow
from trustbound.threat import Threat


@dataclass(eq=False)
class Search:
    """One threat's search, stage by stage."""

    context: Context
    threat: Threat
    verdicts: Verdicts
    facts: list[StageFacts]
    #: Of the audit, in order.
    steps: tuple[Step, ...]
    #: Why a certifier that there is was left out, in words.
    left_out: str
    #: Whether the smooth backward pass was the better one, as a trial on a sample found.
    smooth: bool = False
    #: Perturbations that all inputs share, and what they came to.
    shared: list[tuple[SharedFacts, Tensor]] = field(default_factory=list)
    #: Which certifiers were not run on everything, in words.
    given_up: list[str] = field(default_factory=list)
    #: Steps for which there was no time.
    untimely: list[str] = field(default_factory=list)
    #: Examples whose run of the first stage the trial has made.
    _tried: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    #: That the first stage left.
    _survivors: int = 0

    def run(self) -> None:
        """Every step of the search, in order; checks and curve are none of it."""
        self._unconcerned()
        for step in self.steps:
            if not self._affords(step):
                continue
            match step:
                case Trial():
                    self.smooth = self._try(step)
                case Attacks(stage=stage, first=True):
                    self._attack(stage, self._untried())
                    self._survivors = len(self.verdicts.open())
                case Attacks(stage=stage):
                    self.spread(stage, max(stage.least, math.ceil(stage.share * self._survivors)))
                case Scores(stage=stage):
                    if self._refused():
                        self._attack(stage, self.verdicts.open())
                case UntilDry(rounds=rounds):
                    until_dry(self, rounds)
                case Proof():
                    prove(self, step)
                case Shared():
                    self._share(Sharing(self.context, self.threat, step.attack, step.fitted))
                case Control(stage=stage):
                    self._attack(stage, torch.zeros(0, dtype=torch.int64))
                case Checks() | SecurityCurve():
                    pass
                case _:
                    assert_never(step)

    def _affords(self, step: Step) -> bool:
        """Whether there is time for a step; what there is none for is noted."""
        match step:
            case Attacks(stage=stage, first=False):
                name = stage.name
            case UntilDry():
                name = "rounds"
            case Shared(attack=attack):
                name = f"{attack}-fit"
            case _:
                return True
        if self.context.allowance.affords(f"{self.threat}/{name}"):
            return True
        self.untimely.append(name)
        return False

    def _unconcerned(self) -> None:
        """Examples for which the goal has nothing to reach (of the wanted class already) are safe by definition."""
        concerned = self.threat.goal.concerns(self.context.data.labels)
        positions = (self.verdicts.correct & ~concerned).nonzero()[:, 0]
        if not len(positions):
            return
        step = f"{self.threat}/{UNCONCERNED}"

        def work(unit: WorkUnit) -> UnitResult:
            return UnitResult(
                rows=[EvidenceRow(position=position, found=True) for position in unit.positions], cost=Cost()
            )

        rows = self.context.here(step, positions, work)
        first = self.verdicts.proved(step, rows)
        self.facts.append(stage_facts(str(self.threat), UNCONCERNED, "proof", "goal", rows, first, Cost()))

    def spread(self, stage: Stage, count: int, *, most: int | None = None, control: bool = True) -> Round:
        """A stage on the `count` smallest margins, then on the next ones for as long as that still pays.

        How far down the ranking examples break depends on the model: where gradients mislead, the first margins
        say little, and a block that broke many is followed by another.

        Parameters
            most        examples tried at most.
            control     whether the first block takes the control group along.
        """
        tried = self.context.control.clone() if control else torch.zeros_like(self.context.control)
        asked = broke = 0
        for number in itertools.count(1):
            rows = self.verdicts.open()
            block = rows[:count] if number == 1 else rows[~tried[rows]][:count]
            block = block if most is None else block[: most - asked]
            if number > 1 and not len(block):
                break
            tried[block] = True
            before = int(self.verdicts.broken.sum())
            named = stage if number == 1 else replace(stage, name=f"{stage.name}-{number}")
            standing = len(block) + (len(rows[tried[rows]]) - len(block) if number == 1 else 0)
            self._attack(named, block, again=control and number == 1)
            found = int(self.verdicts.broken.sum()) - before
            if self.facts and self.facts[-1].note.startswith(REFUSED):
                break  # refused: nothing was tried
            asked, broke = asked + standing, broke + found
            if found < max(1, stage.pays * len(block)):
                break
        done = Round(stage.name, asked, broke)
        if asked:
            self.verdicts.rounds.append(done)
        return done

    @property
    def asked(self) -> int:
        """How many examples the search is about."""
        return len(self._asked())

    @property
    def spent(self) -> int:
        """Forwards and backwards of all attacks so far."""
        done = [facts.cost for facts in self.facts if facts.kind != "proof"]
        return sum(cost.forwards + cost.backwards for cost in done)

    def bracket(self) -> Bracket:
        """Both bounds, as the verdicts have them now."""
        return self.verdicts.bracket(
            str(self.threat),
            no_proof=self._no_proof(),
            goal=str(self.threat.goal),
            access=self.threat.access.name.lower(),
            change=self.threat.perturbations.words,
            columns=getattr(self.threat.perturbations, "radii", ()),
        )

    def _no_proof(self) -> str:
        """Why nothing was proven, in words; empty where something was, or where every proof ran and failed."""
        if any(step and not step.endswith(UNCONCERNED) for step in self.verdicts.certified_by):
            return ""
        refused = {step.certifier: self._refusals(step.certifier) for step in self.steps if isinstance(step, Proof)}
        said = [self.left_out, *self.given_up]
        if all(refused.values()):
            said = sorted({reason for reasons in refused.values() for reason in reasons}) or said
        return "; ".join(filter(None, [*said, self._rounded()]))

    def _rounded(self) -> str:
        """How many proofs rounding alone took, in words; empty where it took none."""
        lost = int(self.verdicts.rounded.sum())
        precision = str(self.context.model.precision).removeprefix("torch.")
        return f"{lost} proofs lost to rounding in {precision}" if lost else ""

    def _refusals(self, name: str) -> list[str]:
        step = re.compile(re.escape(f"{self.threat}/proof-{name}") + r"(-\d+|-control)?: ")
        return [event[found.end() :] for event in self.context.store.events() if (found := step.match(event))]

    def _attack(self, stage: Stage, chosen: Tensor, *, again: bool = True) -> None:
        """One stage on the chosen examples and, the first time, on what it can still show of the control group."""
        name, params = stage.method(smooth=self.smooth)
        along = self.context.control & self.verdicts.correct & ~self._shown(name) & again
        along &= ~_member(torch.cat([chosen, self._tried if stage.name == "first" else chosen]), len(along))
        positions = torch.cat([chosen, along.nonzero()[:, 0]]).sort().values
        if not len(positions):
            return
        rows = self._attacked(stage.name, name, params, positions)
        self.note(stage.name, "control" if stage.control else "attack", name, rows, len(positions) - len(chosen))

    def _shown(self, method: str) -> Tensor:
        """Examples of which an attack can show nothing more: broken, and not by attackers alone who see less."""
        if not sees_gradients(method):
            return self.verdicts.broken
        white, _ = sides(self.verdicts, self.facts)
        return torch.zeros_like(self.verdicts.broken) if white is None else white

    def _attacked(self, name: str, method: str, params: Mapping[str, Any], positions: Tensor) -> list[EvidenceRow]:
        """What an attack finds, under the name of a stage."""
        step, unit = f"{self.threat}/{name}", logit_scale(self.context)
        return self.context.run(
            step, "attack", positions, method=method, params=params, threat=self.threat, logit_scale=unit
        )

    def _refused(self) -> bool:
        """Whether every gradient attack was refused: nothing flows back to the inputs."""
        events = [event for event in self.context.store.events() if event.startswith(f"{self.threat}/")]
        tried = [facts for facts in self.facts if facts.kind == "attack" and sees_gradients(facts.method)]
        refused = {event.partition(": ")[0] for event in events if REFUSED in event}
        return bool(tried) and {f"{facts.threat}/{facts.name}" for facts in tried} <= refused

    def note(self, name: str, kind: str, method: str, rows: list[EvidenceRow], control: int) -> None:
        """What an attack found under the name of a stage: verdicts, and a line of the record."""
        step = f"{self.threat}/{name}"
        first = self.verdicts.attacked(step, rows)
        cost = self.context.store.cost(step)
        told = [
            event.removeprefix(f"{step}: ") for event in self.context.store.events() if event.startswith(f"{step}: ")
        ]
        note = next((event for event in told if event.startswith(REFUSED)), "")
        self.facts.append(
            stage_facts(str(self.threat), name, kind, method, rows, first, cost, control=control, note=note)
        )

    def _share(self, sharing: Sharing) -> None:
        """One perturbation, fitted to half of the examples asked about and scored on all, whatever is known of them."""
        asked = self._asked()
        fitted, held = sharing.halves(asked)
        if not len(fitted):
            return
        self.note(sharing.fitting, "attack", sharing.method, sharing.fit(fitted), 0)
        perturbation = sharing.perturbation()
        if perturbation is None:
            return
        rows = sharing.score(perturbation, asked)
        self.note(sharing.scoring, "attack", sharing.method, rows, 0)
        key = f"{self.threat}/{sharing.method}"
        self.shared.append((sharing.facts(perturbation, fitted, held, rows, key), perturbation))

    def _try(self, trial: Trial) -> bool:
        """Both backward passes on the sample; whether smooth is the better one here."""
        sample = self.context.drawn("trial", self._asked(), trial.examples)
        if not len(sample):
            return False
        if trial.opens:
            self._tried = sample
        results: dict[bool, list[EvidenceRow]] = {}
        for smooth in (True, False):
            stage = trial.half(smooth=smooth)
            method, params = stage.method(smooth=smooth)
            results[smooth] = self._attacked(stage.name, method, params, sample)
            self.note(stage.name, "attack", method, results[smooth], 0)
        return _smooth_serves(results[True], results[False])

    def _asked(self) -> Tensor:
        """Correctly classified examples that the goal concerns, in their order."""
        concerned = self.threat.goal.concerns(self.context.data.labels)
        return (self.verdicts.correct & concerned).nonzero()[:, 0]

    def _untried(self) -> Tensor:
        """Examples asked about whose run of the first stage the trial has not made."""
        rows = self._asked()
        return rows[~_member(self._tried, len(self.verdicts.correct))[rows]]


def _smooth_serves(smooth: list[EvidenceRow], plain: list[EvidenceRow]) -> bool:
    """Whether to search with the smooth backward pass: unless it is refused, or the plain one is clearly ahead.

    After one short run the two are often an image apart; later, on the examples that stand, the smooth one found
    more wherever there were ReLUs to smooth. Clearly ahead: two examples more, or margins a tenth smaller.
    """
    if any(row.margin is None and not row.found for row in smooth):
        return False
    ahead = sum(row.found for row in plain) - sum(row.found for row in smooth)
    left = [sum(max(row.margin or 0.0, 0.0) for row in rows) for rows in (smooth, plain)]
    return ahead < 2 and left[0] <= 1.1 * left[1]


def _member(positions: Tensor, count: int) -> Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[positions] = True
    return mask
