"""What a check measured, and the one rule that makes a verdict of it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from trustbound.audits.checks.context import Before
from trustbound.audits.checks.registry import CHECKS, CheckRow
from trustbound.record.audit import Check
from trustbound.record.cost import Cost
from trustbound.threat import Access

_ORDER = ("PASS", "WARN", "FAIL")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was measured, before it is judged.

    Parameters
        value       the number to judge, larger is worse; None when there is none.
        finding     one sentence with the numbers.
        advice      what to do next if the verdict is not PASS.
        evidence    plain values for who wants to look closer: rows, module names, shares.
        cost        what the measuring took.
        at_least    the mildest verdict that the evidence allows, whatever the value.
        at_most     the severest verdict that it allows, e.g. WARN where a difference is not significant.
        unmeasured  without a value: the question stands and was not answered. Else it does not arise here.
    """

    value: float | None
    finding: str
    advice: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    at_least: str = "PASS"
    at_most: str = "FAIL"
    unmeasured: bool = False


def idle(reason: str, cost: Cost | None = None) -> Finding:
    """The question does not arise: no training set, no pictures, an adversary that sees no gradients.

    >>> judge(CHECKS.find("train-test-overlap"), idle("no training set was given"))
    'SKIP'
    """
    return Finding(value=None, finding=reason, cost=cost or Cost())


def unmeasured(reason: str, cost: Cost | None = None) -> Finding:
    """The question stands and could not be answered.

    >>> judge(CHECKS.find("determinism"), unmeasured("the model refused"))
    'WARN'
    """
    return Finding(
        value=None,
        finding=f"could not be measured: {reason}",
        advice="this part of the evaluation was not examined: remove the reason and audit again, or say so where "
        "the numbers are quoted.",
        cost=cost or Cost(),
        unmeasured=True,
    )


def judge(row: CheckRow, finding: Finding) -> str:
    """PASS, WARN, FAIL or SKIP: thresholds are exceeded, not met.

    What does not arise is SKIP. What could not be measured is WARN where a failure would mean that the numbers are not
    to be trusted (severity error), else SKIP.

    >>> judge(CHECKS.find("gradient-rate"), Finding(value=0.02, finding="")), judge(
    ...     CHECKS.find("gradient-rate"), Finding(value=0.5, finding="", at_most="WARN")
    ... )
    ('PASS', 'WARN')
    """
    if finding.value is None:
        return "WARN" if finding.unmeasured and row.severity == "error" else "SKIP"
    verdict = 0
    if row.warn is not None and not finding.value <= row.warn:  # NaN is no PASS
        verdict = 1
    if row.fail is not None and not finding.value <= row.fail:
        verdict = 2
    return _ORDER[min(max(verdict, _ORDER.index(finding.at_least)), _ORDER.index(finding.at_most))]


AnyContext = TypeVar("AnyContext", bound=Before)


class EvaluationCheck(abc.ABC, Generic[AnyContext]):
    """One check: its parameters (a frozen dataclass) and `measure`; the thresholds are in its registry row.

    Parameters
        name    of its registry row.
        needs   least access; under a threat that gives less the question does not arise.
        balls   whether it arises under norm balls only.
        classes     whether it arises for classes only.
        slopes      whether it arises only where margins are smooth functions of the outputs.
    """

    name: ClassVar[str]
    needs: ClassVar[Access] = Access.DECISIONS
    balls: ClassVar[bool] = False
    classes: ClassVar[bool] = False
    slopes: ClassVar[bool] = False

    @abc.abstractmethod
    def measure(self, context: AnyContext) -> Finding:
        """The number and its sentence."""

    def look(self, context: AnyContext) -> tuple[Check, Finding]:
        """The judged record, and what it was judged by."""
        row = CHECKS.find(self.name)
        if context.threat.access < self.needs:
            finding = idle(f"needs {self.needs.name.lower()}; the threat gives {context.threat.access.name.lower()}")
        elif self.balls and not context.threat.perturbations.norm:
            finding = idle(f"is a question about norm balls; the threat is {context.threat.perturbations}")
        elif self.classes and not context.model.task.plain:
            finding = idle(f"is a question about classes; the task is {context.model.task.name}")
        elif self.slopes and not context.model.task.smooth:
            finding = idle(f"is a question about slopes; margins of {context.model.task.name} are counted")
        elif row.asks and not context.share:
            finding = unmeasured("there was no time to ask the model")
        else:
            try:
                finding = self.measure(context)
            except Exception as error:  # the user's model runs in here: whatever it does, the audit goes on
                reason = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
                finding = unmeasured(reason)
        verdict = judge(row, finding)
        record = Check(
            name=row.name,
            verdict=verdict,
            severity=row.severity,
            value=finding.value,
            finding=finding.finding,
            advice="" if verdict in ("PASS", "SKIP") else finding.advice,
            unit=row.unit,
            threat=str(context.threat) if row.scope == "threat" else "",
        )
        return record, finding

    def run(self, context: AnyContext) -> Check:
        """The judged record."""
        return self.look(context)[0]
