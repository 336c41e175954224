"""What the steps of an audit cost: one line each, at most and likely, in evaluations or, for proofs, in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, assert_never

from trustbound.attacks import build
from trustbound.attacks.registry import ATTACKS
from trustbound.audits.checks.expected import SAMPLE, expected
from trustbound.audits.checks.gradient_attacks import planned
from trustbound.audits.planning.pilot import Prospect
from trustbound.audits.planning.pricing import CHECKS, apart, at_most, calls
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
    control_count,
)
from trustbound.audits.stages.proving import BOUNDS
from trustbound.certificates.registry import CERTIFIERS
from trustbound.tasks.task import Task
from trustbound.threat import Threat

#: Of the steps of an attack, the share after which an example that breaks has done so.
EARLY = 0.25


@dataclass(frozen=True, kw_only=True)
class Line:
    """One step: on how many examples at most, with how many evaluations and seconds of proofs at most.

    `likely` is the share of these that is expected: what stands after the first attack on a few examples decides it,
    and that the first block of a stage is followed by others only while they pay. `calls` of the model are expected
    one after another; of the forwards, `crowded` ones fill theirs. An audit cannot do without what is `needed`,
    whatever time it has.
    """

    threat: str
    stage: str
    attack: str
    examples: int
    forwards: int = 0
    crowded: int = 0
    backwards: int = 0
    seconds: float = 0.0
    likely: float = 1.0
    calls: int = 0
    needed: bool = False


@dataclass(frozen=True)
class Pricing:
    """How the lines of one threat's steps are found.

    Parameters
        examples    of the audit.
        correct     the share that is classified correctly.
        checked     of the examples that checks draw, the share that they draw.
    """

    threat: Threat
    budget: str
    task: Task
    examples: int
    correct: float
    prospect: Prospect
    checked: float = 1.0

    def lines(self, steps: tuple[Step, ...]) -> list[Line]:
        """The lines of all steps, in order."""
        found: list[Line] = []
        for step in steps:
            found += self._lines(step, found)
        return found

    def _lines(self, step: Step, before: list[Line]) -> Iterator[Line]:
        everything, control = self.examples, control_count(self.examples)
        right, stands = self.correct, self.prospect.standing
        match step:
            case Checks(when=when):
                attacks, standing = planned(self.budget, self.threat, self.task), math.ceil(self._left * everything)
                forwards, backwards = expected(when, attacks, everything, standing, self.checked)
                yield Line(
                    threat=str(self.threat),
                    stage=f"checks-{when}",
                    attack="",
                    examples=everything,
                    forwards=forwards,
                    backwards=backwards,
                    calls=forwards // max(1, math.ceil(min(everything, self.checked * SAMPLE))),
                    needed=True,
                )
            case Trial(stage=stage, examples=most, opens=opens):
                for smooth in (False,) if opens else (False, True):  # else the smooth half is the first stage's own
                    half = step.half(smooth=smooth)
                    yield self._needed(half.name, *half.method(smooth=smooth), min(most, everything))
            case Attacks(stage=stage, first=True):
                share = self.prospect.used * (stands + EARLY * (right - stands))  # what breaks stops then
                yield self._needed(stage.name, *stage.method(smooth=True), everything, share)
            case Attacks(stage=stage):
                chosen = min(stands * everything, max(stage.least, math.ceil(stage.share * stands * everything)))
                share = min(1.0, (chosen + 0.5 * right * control) / everything)
                yield self._line(stage.name, *stage.method(smooth=True), everything, share)
            case Scores(stage=stage):
                yield self._line(stage.name, *stage.method(smooth=True), everything, 0.0)
            case UntilDry():
                yield self._rounds(step, before)
            case Proof(certifier=name, tighter=tighter, most=most):
                share = self._left_by(name) if tighter else stands + (right - stands) * control / everything
                block = self.prospect.blocks.get(name, everything)
                tried = self._tried(name) if most is None else min(self._tried(name), most)
                line = self._proof(f"proof-{name}", name, everything, 1, min(share, tried / everything))
                yield replace(line, needed=block >= everything and self._promises(name))
            case Shared(attack=name, fitted=most):
                method, fitted = ATTACKS.build(name), min(everything // 2, most)
                forwards, backwards = (fitted * method.passes * each for each in method.dearest)
                line = Line(threat=str(self.threat), stage=name, attack=name, examples=everything)
                yield replace(
                    line, stage=f"{name}-fit", examples=fitted, forwards=forwards + fitted, backwards=backwards
                )
                yield replace(line, forwards=everything * (1 + CHECKS))
            case Control(stage=stage):
                yield self._needed(stage.name, *stage.method(smooth=True), control, right)
            case SecurityCurve():
                yield from self._curve(step)
            case _:
                assert_never(step)

    @property
    def _left(self) -> float:
        """The share of all examples that is expected to end neither broken nor proven."""
        return self._left_by("")

    def _left_by(self, certifier: str) -> float:
        """The share that stands and that no certifier before this one is expected to prove."""
        known = self.prospect.outlooks
        names = list(known)
        before = names[: names.index(certifier)] if certifier in names else names
        return self.prospect.standing * (1.0 - max((known[name].certified for name in before), default=0.0))

    def _tried(self, certifier: str) -> float:
        """Examples on which a certifier is likely tried: of a dear one a block, and as long as blocks pay, the next."""
        known, block = self.prospect.outlooks.get(certifier), self.prospect.blocks.get(certifier, self.examples)
        if known is None or known.certified:
            return self.examples
        return block if not known.near else 3 * block  # the second block has twice as many

    def _curve(self, curve: SecurityCurve) -> Iterator[Line]:
        """Radii, the search for the smallest change, and runs of fixed size, mostly one of them."""
        for name in curve.certifiers:
            yield self._radii(name, curve)
        if curve.seeker:
            yield self._line("curve-attack", *curve.seeker, curve.examples, self.correct)
        most = 2 * math.ceil(math.log2(curve.points))
        runs = self._line("curve-runs", *curve.placed(smooth=True), curve.examples)
        likely = 1.2 * self.correct / most
        yield replace(
            runs,
            forwards=most * runs.forwards,
            backwards=most * runs.backwards,
            likely=likely,
            calls=3 * runs.calls,
        )

    def _promises(self, certifier: str) -> bool:
        """Whether a certifier proved something, or nearly; of cheap ones also where it was not tried."""
        known = self.prospect.outlooks.get(certifier)
        if known is None or not known.tried:
            return not CERTIFIERS.find(certifier).quadratic
        return bool(known.certified or known.near)

    def _radii(self, name: str, curve: SecurityCurve) -> Line:
        """Bounds of the curve's examples: three each where it can prove something at some size, one where it cannot.

        Of a dear certifier a sample is asked first, and no more where that has nothing in reach.
        """
        known = self.prospect.outlooks.get(name)
        reach, likely = 1.0 if known is None else known.reach, self.correct
        if not reach and CERTIFIERS.find(name).quadratic:
            reach, likely = 1.0, min(likely, self.prospect.samples.get(name, curve.examples) / curve.examples)
        return self._proof(f"curve-proof-{name}", name, curve.examples, BOUNDS, likely * (1.0 + 2.0 * reach) / BOUNDS)

    def _rounds(self, step: UntilDry, before: list[Line]) -> Line:
        """Rounds until they are dry: likely one block of as many kinds as end it, at most what the limit leaves."""
        further, stands = step.rounds, self.prospect.standing
        whole = [self._line(f"round-{kind.name}", *kind.method(smooth=True), self.examples) for kind in further.kinds]
        first = [
            min(stands * self.examples, max(kind.least, math.ceil(kind.share * stands * self.examples))) / self.examples
            for kind in further.kinds[: further.quiet]
        ]
        likely = sum(share * (line.forwards + line.backwards) for share, line in zip(first, whole, strict=False))
        taken = sum(line.forwards + line.backwards for line in before if line.attack and line.likely)
        most = max(further.limit * self.examples - taken, math.ceil(likely), 1)
        forwards = math.ceil(
            most * sum(line.forwards for line in whole) / sum(line.forwards + line.backwards for line in whole)
        )
        names = ", ".join(dict.fromkeys(line.attack for line in whole))
        return Line(
            threat=str(self.threat),
            stage="rounds",
            attack=names if len(names) < 14 else "several",
            examples=self.examples,
            forwards=forwards,
            backwards=most - forwards,
            likely=likely / most,
            calls=sum(line.calls for line in whole[: further.quiet]),
        )

    def _proof(self, stage: str, name: str, count: int, rounds: int, likely: float) -> Line:
        """A certifier, in seconds."""
        known = self.prospect.outlooks.get(name)
        seconds = 0.0 if known is None else count * rounds * known.seconds
        return Line(
            threat=str(self.threat), stage=stage, attack=name, examples=count, seconds=seconds, likely=min(likely, 1.0)
        )

    def _needed(self, stage: str, name: str, params: Mapping[str, Any], count: int, likely: float = 1.0) -> Line:
        return replace(self._line(stage, name, params, count, likely), needed=True)

    def _line(self, stage: str, name: str, params: Mapping[str, Any], count: int, likely: float = 1.0) -> Line:
        """An attack: its steps, what it asks before them, and the checks of what it finds."""
        method = build(name, **params)
        forwards, backwards = at_most(method)
        return Line(
            threat=str(self.threat),
            stage=stage,
            attack=name,
            examples=count,
            forwards=count * forwards,
            crowded=count * apart(method)[1],
            backwards=count * backwards,
            likely=likely,
            calls=calls(method) if likely else 0,
        )
