"""What an audit would do and cost, before it is run."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trustbound.attacks.model_access.oracle import price_of
from trustbound.audits.planning.lines import Line, Pricing
from trustbound.audits.planning.pilot import Pilot, pilot
from trustbound.audits.planning.schedule import curve_count, steps
from trustbound.audits.stages.proving import certifiers
from trustbound.audits.work_units.subject import Subject
from trustbound.data.labelled import LabelledSet
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.threat import Threat

#: Of a time that is given, the share that a budget's search and checks may take.
SEARCH = 0.7


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps with their largest cost, and the price of an evaluation, measured on one batch.

    Evaluations are upper limits: examples that break early, or are proven, cost less. Proofs are counted in seconds.
    `before` is what starting, reading the model and trying a few examples took: an audit does so again.
    """

    budget: str
    examples: int
    lines: tuple[Line, ...]
    forward_seconds: float
    backward_cost: float
    overhead: float = 0.0
    before: float = 0.0

    @property
    def cost(self) -> Cost:
        """All steps together, at most."""
        return self._sum([1.0] * len(self.lines))

    @property
    def likely(self) -> Cost:
        """All steps together, as far as a few examples can tell."""
        return self._sum([line.likely for line in self.lines])

    def _sum(self, shares: Sequence[float]) -> Cost:
        forwards = math.ceil(sum(line.forwards * share for line, share in zip(self.lines, shares, strict=True)))
        backwards = math.ceil(sum(line.backwards * share for line, share in zip(self.lines, shares, strict=True)))
        proofs = sum(line.seconds * share for line, share in zip(self.lines, shares, strict=True))
        calls = sum(line.calls for line in self.lines)
        seconds = self.forward_seconds * (forwards + self.backward_cost * backwards) + proofs + self.overhead * calls
        return Cost(forwards=forwards, backwards=backwards, seconds=seconds + self.before)

    def seconds(self, line: Line) -> float:
        """What a step likely takes."""
        evaluations = line.forwards + self.backward_cost * line.backwards
        return line.likely * (self.forward_seconds * evaluations + line.seconds) + self.overhead * line.calls

    @property
    def search_seconds(self) -> float:
        """What the search and its checks likely take; dear proofs and the curve come after."""
        asked = [line for line in self.lines if line.needed or not line.stage.startswith(("curve", "proof"))]
        return sum(self.seconds(line) for line in asked)

    def text(self) -> str:
        """For people."""
        wide = max(16, 2 + max((len(line.threat) for line in self.lines), default=0))
        steps = 2 + max((len(line.stage) for line in self.lines), default=16)
        titles = f"{'method':<18}{'examples':>9}{'forwards':>12}{'backwards':>12}{'likely':>11}"
        rows = [f"{'threat':<{wide}}{'step':<{steps}}{titles}"]
        for line in self.lines:
            counts = f"{line.examples:>9}{line.forwards:>12,}{line.backwards:>12,}{self.seconds(line):>9.1f} s"
            rows.append(f"{line.threat:<{wide}}{line.stage:<{steps}}{line.attack:<18}{counts}")
        rows.append(f"{'start and trial':<{wide + steps}}{'':<18}{'':>33}{self.before:>9.1f} s")
        cost = self.cost
        rows.append(
            f"budget {self.budget}, {self.examples} examples: at most {cost.forwards:,} forwards and "
            f"{cost.backwards:,} backwards, {cost.seconds / 60:.1f} minutes; likely {self.likely.seconds / 60:.1f} "
            "minutes"
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
            "before_seconds": self.before,
            "minutes": cost.seconds / 60,
            "likely_minutes": self.likely.seconds / 60,
        }


def plan(
    model: Model,
    data: LabelledSet,
    threats: Sequence[Threat],
    budget: str,
    curve: int | None,
    batch_size: int | None = None,
    began: float | None = None,
) -> Plan:
    """Lay out the steps and try a few examples; `began` is when the command did, by `time.perf_counter`.

    Cost        one batch of forwards and backwards, the reading of the model for proofs, and for each threat some
                seconds of an attack and of proofs.
    """
    subject = Subject(model=model, data=data, threats={str(threat): threat for threat in threats})
    began = time.perf_counter() if began is None else began
    tried = _tried(subject, budget, batch_size)
    return replace(_plan(subject, tried, budget, curve), before=time.perf_counter() - began)


def announced(
    subject: Subject, budget: str, curve: int, batch_size: int | None = None
) -> dict[str, tuple[float, bool]]:
    """Seconds that each step is likely to take, by its name in order, and whether it is needed."""
    sketch = _plan(subject, _tried(subject, budget, batch_size), budget, curve)
    return {f"{line.threat}/{line.stage}": (sketch.seconds(line), line.needed) for line in sketch.lines}


def choose(
    model: Model,
    data: LabelledSet,
    threats: Sequence[Threat],
    seconds: float,
    curve: int | None,
    seed: int,
    batch_size: int | None = None,
) -> tuple[str, LabelledSet]:
    """The hardest budget whose attacks fit a time; fewer examples of the quick one where none does.

    Dear proofs and the curve take what is left of it.
    """
    subject = Subject(model=model, data=data, threats={str(threat): threat for threat in threats})
    tried = _tried(subject, "thorough", batch_size)
    for budget in ("thorough", "standard", "quick"):
        sketch = _plan(subject, tried, budget, curve)
        if sketch.search_seconds <= SEARCH * seconds:
            return budget, data
    fitting = max(1, int(len(data) * SEARCH * seconds / max(sketch.search_seconds, 1e-9)))
    return "quick", data.stratified(fitting, seed)


def _tried(subject: Subject, budget: str, batch_size: int | None) -> Pilot:
    names = {name: certifiers(subject, threat, budget)[0] for name, threat in subject.threats.items()}
    return pilot(subject, names, batch_size)


def _plan(subject: Subject, tried: Pilot, budget: str, curve: int | None) -> Plan:
    model, examples = subject.model, len(subject.data)
    count = curve_count(curve, budget, examples)
    look, draws = price_of(model), model.adaptation.draws
    lines: list[Line] = []
    for name, threat in subject.threats.items():
        provers, _ = certifiers(subject, threat, budget)
        asked = steps(threat, budget, model.task, certifiers=provers, curve_examples=count)
        pricing = Pricing(threat, budget, model.task, examples, tried.correct, tried.prospects[name])
        lines += [
            replace(line, forwards=look * line.forwards, backwards=draws * line.backwards)
            for line in pricing.lines(asked)
        ]
    return Plan(
        budget=budget,
        examples=examples,
        lines=tuple(lines),
        forward_seconds=tried.forward,
        backward_cost=tried.backward,
        overhead=tried.overhead,
    )
