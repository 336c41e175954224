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
from trustbound.audits.stages.allowance import LEAST_SHARE
from trustbound.audits.stages.proving import certifiers
from trustbound.audits.work_units.subject import Subject
from trustbound.certificates.registry import CERTIFIERS
from trustbound.data.labelled import LabelledSet
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.threat import Threat

#: Of a time that is given, the share that a budget's search and checks may take.
SEARCH = 0.7

#: Of a time that is given, the share that trying a few examples may take, proofs apart.
TRIAL = 0.1

#: Examples that are audited at least, whatever the time.
LEAST = 8


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
    crowded_seconds: float
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
        pairs = list(zip(self.lines, shares, strict=True))
        return Cost(
            forwards=math.ceil(sum(line.forwards * share for line, share in pairs)),
            backwards=math.ceil(sum(line.backwards * share for line, share in pairs)),
            seconds=self.before + sum(self._seconds(line, share) for line, share in pairs),
        )

    def seconds(self, line: Line) -> float:
        """What a step likely takes."""
        return self._seconds(line, line.likely)

    def _seconds(self, line: Line, share: float) -> float:
        evaluations = line.forwards - line.crowded + self.backward_cost * line.backwards
        asked = self.forward_seconds * evaluations + self.crowded_seconds * line.crowded
        return share * (asked + line.seconds) + self.overhead * line.calls

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
    tried: Pilot | None = None,
) -> Plan:
    """Lay out the steps and try a few examples; `began` is when the command did, by `time.perf_counter`.

    Parameters
        tried       what was tried already, in place of that.

    Cost        one batch of forwards and backwards, the reading of the model for proofs, and for each threat some
                seconds of an attack and of proofs.
    """
    began = time.perf_counter() if began is None else began
    subject = _subject(model, data, threats, tried)
    tried = tried or pilot(subject, batch_size).proving(_certifiers(subject, budget))
    return replace(_plan(subject, tried, budget, curve), before=time.perf_counter() - began)


def announced(
    subject: Subject,
    tried: Pilot | None,
    budget: str,
    curve: int,
    batch_size: int | None = None,
    limit: float = math.inf,
) -> dict[str, tuple[float, bool]]:
    """Seconds that each step is likely to take, by its name in order, and whether it is needed.

    Parameters
        tried       what was tried already, in place of a trial of `limit` seconds.
    """
    tried = tried or pilot(subject, batch_size, limit=limit).proving(_certifiers(subject, budget), limit / 2)
    sketch = _plan(subject, tried, budget, curve)
    return {f"{line.threat}/{line.stage}": (sketch.seconds(line), line.needed) for line in sketch.lines}


def choose(
    model: Model,
    data: LabelledSet,
    threats: Sequence[Threat],
    seconds: float,
    curve: int | None,
    seed: int,
    batch_size: int | None = None,
    began: float | None = None,
) -> tuple[str, LabelledSet, Pilot]:
    """The hardest budget whose attacks fit a time; fewer examples of the quick one where none does; what was tried.

    Dear proofs and the curve take what is left of it. What the command took since it `began` is gone, the trial takes
    a tenth of the time, and checks draw fewer examples before fewer are audited.
    """
    began = time.perf_counter() if began is None else began
    subject = _subject(model, data, threats, None)
    tried = pilot(subject, batch_size, limit=TRIAL * seconds)
    cheap = {
        name: [each for each in names if not CERTIFIERS.find(each).quadratic]
        for name, names in _certifiers(subject, "quick").items()
    }
    tried = tried.proving(cheap, TRIAL * seconds / 2)
    left = seconds - (time.perf_counter() - began)

    def fits(budget: str, examples: int, checked: float = 1.0) -> bool:
        sketch = _plan(subject, tried, budget, curve, examples=examples, checked=checked)
        return sketch.search_seconds <= SEARCH * left

    budget = next((budget for budget in ("thorough", "standard") if fits(budget, len(data))), "quick")
    if budget == "quick" and not fits("quick", len(data), LEAST_SHARE):
        low, high = min(LEAST, len(data)), len(data)
        share = LEAST_SHARE if fits("quick", low, LEAST_SHARE) else 0.0  # then no check asks the model
        high += fits("quick", high, share)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits("quick", middle, share) else (low, middle)
        data = data.stratified(low, seed)
    names = _certifiers(subject, budget)
    return budget, data, tried.proving(names, min(TRIAL * seconds, left / 4))


def _subject(model: Model, data: LabelledSet, threats: Sequence[Threat], tried: Pilot | None) -> Subject:
    named = {str(threat): threat for threat in threats}
    return tried.subject.about(data, named) if tried else Subject(model=model, data=data, threats=named)


def _certifiers(subject: Subject, budget: str) -> dict[str, list[str]]:
    return {name: certifiers(subject, threat, budget)[0] for name, threat in subject.threats.items()}


def _plan(
    subject: Subject,
    tried: Pilot,
    budget: str,
    curve: int | None,
    *,
    examples: int | None = None,
    checked: float = 1.0,
) -> Plan:
    model, examples = subject.model, examples or len(subject.data)
    count = curve_count(curve, budget, examples)
    look, draws = price_of(model), model.adaptation.draws
    lines: list[Line] = []
    for name, threat in subject.threats.items():
        provers, _ = certifiers(subject, threat, budget)
        asked = steps(threat, budget, model.task, certifiers=provers, curve_examples=count)
        pricing = Pricing(threat, budget, model.task, examples, tried.correct, tried.prospects[name], checked)
        lines += [
            replace(
                line,
                forwards=look * line.forwards,
                crowded=look * line.crowded,
                backwards=draws * line.backwards,
            )
            for line in pricing.lines(asked)
        ]
    return Plan(
        budget=budget,
        examples=examples,
        lines=tuple(lines),
        forward_seconds=tried.forward,
        crowded_seconds=tried.crowded,
        backward_cost=tried.backward,
        overhead=tried.overhead,
    )
