"""What an audit would do and cost, before it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from trustbound.attacks import build
from trustbound.attacks.gradient.margin_pgd import VARIED
from trustbound.attacks.model_access.oracle import default_batch_size, price_of
from trustbound.attacks.registry import ATTACKS
from trustbound.attacks.suites import Rounds, rounds, shared_attacks, suite
from trustbound.audits.stages.bracket import TRIAL
from trustbound.audits.stages.curve import POINTS, curve_count, drawable
from trustbound.audits.stages.distances import SEEKING, STEPS
from trustbound.audits.stages.pricing import CHECKS, at_most, price
from trustbound.audits.stages.shared_perturbation import FITTED
from trustbound.data.labelled import LabelledSet
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.tasks.task import Task
from trustbound.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Line:
    """One stage: on how many examples at most, with how many evaluations at most.

    `likely` is the share of these that its first block takes; the next blocks are run only while they pay.
    """

    threat: str
    stage: str
    attack: str
    examples: int
    forwards: int
    backwards: int
    likely: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The stages with their largest cost, and the price of an evaluation, measured on one batch.

    Evaluations are upper limits: examples that break early, or are proven, cost less. Proofs and checks come
    on top; proofs are not counted in evaluations at all.
    """

    budget: str
    examples: int
    lines: tuple[Line, ...]
    forward_seconds: float
    backward_cost: float

    @property
    def cost(self) -> Cost:
        """All stages together, at most."""
        return self._sum([1.0] * len(self.lines))

    @property
    def likely(self) -> Cost:
        """All stages together when no stage goes past its first block."""
        return self._sum([line.likely for line in self.lines])

    def _sum(self, shares: Sequence[float]) -> Cost:
        forwards = math.ceil(sum(line.forwards * share for line, share in zip(self.lines, shares, strict=True)))
        backwards = math.ceil(sum(line.backwards * share for line, share in zip(self.lines, shares, strict=True)))
        seconds = self.forward_seconds * (forwards + self.backward_cost * backwards)
        return Cost(forwards=forwards, backwards=backwards, seconds=seconds)

    def text(self) -> str:
        """For people."""
        wide = max(16, 2 + max((len(line.threat) for line in self.lines), default=0))
        rows = [f"{'threat':<{wide}}{'stage':<18}{'attack':<14}{'examples':>9}{'forwards':>12}{'backwards':>12}"]
        rows += [
            f"{line.threat:<{wide}}{line.stage:<18}{line.attack:<14}{line.examples:>9}{line.forwards:>12,}{line.backwards:>12,}"
            for line in self.lines
        ]
        cost = self.cost
        rows.append(
            f"budget {self.budget}, {self.examples} examples: at most {cost.forwards:,} forwards and "
            f"{cost.backwards:,} backwards, {cost.seconds / 60:.1f} minutes; likely {self.likely.seconds / 60:.1f} "
            "minutes; proofs and checks come on top"
        )
        return "\n".join(rows)

    def document(self) -> dict[str, Any]:
        """For programs."""
        cost = self.cost
        return {
            "budget": self.budget,
            "examples": self.examples,
            "stages": [vars(line) for line in self.lines],
            "forwards": cost.forwards,
            "backwards": cost.backwards,
            "minutes": cost.seconds / 60,
            "likely_minutes": self.likely.seconds / 60,
        }


def plan(model: Model, data: LabelledSet, threats: Sequence[Threat], budget: str, curve: int | None) -> Plan:
    """Lay out the stages and time one batch."""
    seconds, ratio = _timed(model, data)
    lines = [line for threat in threats for line in _lines(threat, budget, len(data), model.task)]
    count = curve_count(curve, budget, len(data))
    if count:
        lines += [line for threat in threats if drawable(threat, model.task) for line in _curve_lines(threat, count)]
    draws, look = model.adaptation.draws, price_of(model)
    lines = [replace(line, forwards=look * line.forwards, backwards=draws * line.backwards) for line in lines]
    single = seconds / draws
    return Plan(budget=budget, examples=len(data), lines=tuple(lines), forward_seconds=single, backward_cost=ratio)


def choose(
    model: Model, data: LabelledSet, threats: Sequence[Threat], seconds: float, curve: int | None, seed: int
) -> tuple[str, LabelledSet]:
    """The hardest budget that fits a time; fewer examples of the quick one where none does."""
    for budget in ("thorough", "standard", "quick"):
        sketch = plan(model, data, threats, budget, curve)
        if sketch.likely.seconds <= seconds:
            return budget, data
    fitting = max(1, int(len(data) * seconds / max(sketch.likely.seconds, 1e-9)))
    return "quick", data.stratified(fitting, seed)


def _lines(threat: Threat, budget: str, examples: int, task: Task) -> list[Line]:
    control = min(examples, max(50, math.ceil(0.05 * examples)))
    stages = suite(budget, threat, task)
    lines = []
    for climb in [stage for stage in stages if stage.attack == "margin"][:1]:
        lines.append(_line(threat, "trial-plain", *climb.method(smooth=False), min(TRIAL, examples)))
        if climb is not stages[0]:  # else the smooth half of the trial is the first stage's own
            lines.append(_line(threat, "trial-smooth", *climb.method(smooth=True), min(TRIAL, examples)))
    for stage in stages:
        name, params = stage.method(smooth=True)
        chosen = min(examples, max(stage.least, math.ceil(stage.share * examples)))
        if stage.control:
            lines.append(_line(threat, stage.name, name, params, control))
            continue
        likely = min(1.0, (chosen + control) / examples)
        lines.append(replace(_line(threat, stage.name, name, params, examples), likely=likely))
    lines += _round_lines(threat, rounds(budget, threat, task), examples, lines)
    return lines + [
        line for name in shared_attacks(budget, threat, task) for line in _shared_lines(threat, name, examples)
    ]


def _round_lines(threat: Threat, further: Rounds, examples: int, before: Sequence[Line]) -> list[Line]:
    """Rounds until they are dry: likely one block of as many kinds as end it, at most what the limit leaves."""
    whole = [_line(threat, f"round-{kind.name}", *kind.method(smooth=True), examples) for kind in further.kinds]
    if not whole:
        return []
    first = [
        min(examples, max(kind.least, math.ceil(kind.share * examples))) / examples
        for kind in further.kinds[: further.quiet]
    ]
    likely = sum(share * (line.forwards + line.backwards) for share, line in zip(first, whole, strict=False))
    left = max(further.limit * examples - sum(line.forwards + line.backwards for line in before), 0)
    most = max(left, math.ceil(likely))
    forwards = math.ceil(
        most * sum(line.forwards for line in whole) / sum(line.forwards + line.backwards for line in whole)
    )
    names = ", ".join(dict.fromkeys(line.attack for line in whole))
    return [
        Line(
            threat=str(threat),
            stage="rounds",
            attack=names if len(names) < 14 else "several",
            examples=examples,
            forwards=forwards,
            backwards=most - forwards,
            likely=likely / most,
        )
    ]


def _shared_lines(threat: Threat, name: str, examples: int) -> list[Line]:
    """A perturbation fitted to half of the examples, in as many passes as it may take, and scored on all."""
    method = ATTACKS.build(name)
    fitted = min(examples // 2, FITTED)
    forwards, backwards = (fitted * method.passes * each for each in method.dearest)
    scored = examples * (1 + CHECKS)
    return [
        Line(
            threat=str(threat),
            stage=f"{name}-fit",
            attack=name,
            examples=fitted,
            forwards=forwards + fitted,
            backwards=backwards,
        ),
        Line(threat=str(threat), stage=name, attack=name, examples=examples, forwards=scored, backwards=0),
    ]


def _curve_lines(threat: Threat, count: int) -> list[Line]:
    """The search for the smallest change, and runs of fixed size: mostly one, then a few by doubling and halving."""
    most = 2 * math.ceil(math.log2(POINTS))
    runs = _line(threat, "curve-runs", "smooth-pgd", {"steps": STEPS, "runs": VARIED}, count)
    whole = replace(runs, forwards=most * runs.forwards, backwards=most * runs.backwards, likely=1.0 / most)
    return [_line(threat, "curve-attack", "fmn", {"steps": SEEKING}, count), whole]


def _line(threat: Threat, stage: str, name: str, params: Mapping[str, Any], count: int) -> Line:
    """What a stage costs at most: its steps, what it asks before them, and the checks of what it finds."""
    forwards, backwards = at_most(build(name, **params))
    return Line(
        threat=str(threat),
        stage=stage,
        attack=name,
        examples=count,
        forwards=count * forwards,
        backwards=count * backwards,
    )


def _timed(model: Model, data: LabelledSet) -> tuple[float, float]:
    """Seconds of one forward of an example, and the price of a backward in forwards."""
    rows = torch.arange(min(len(data), default_batch_size(model)))
    inputs, labels = data.batch(rows).to(model.device, model.input_dtype), data.labels[rows].to(model.device)
    found = price(model, inputs, labels)
    return found.forward, found.backward
