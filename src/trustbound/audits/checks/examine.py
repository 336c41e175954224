"""Run the checks: all that apply to a context, each judged, each with its cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trustbound.audits.checks.context import After, Before
from trustbound.audits.checks.finding import EvaluationCheck, Finding
from trustbound.audits.checks.registry import CHECKS, CheckRow
from trustbound.record.audit import Check
from trustbound.record.cost import Cost


@dataclass(frozen=True, kw_only=True)
class Examined:
    """The judged records in the registry's order, what each was judged by, and the cost of them all."""

    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    cost: Cost

    def verdict(self, name: str) -> str:
        """The verdict of one check; SKIP when it was not run."""
        return next((check.verdict for check in self.checks if check.name == name), "SKIP")


def build(name: str, **params: Any) -> EvaluationCheck[Any]:
    """A check by its registry name, with its parameters.

    >>> build("sample-size", precision=0.01).precision
    0.01
    """
    check: EvaluationCheck[Any] = CHECKS.build(name, **params)
    return check


def due(when: str, scope: str | None = None) -> list[CheckRow]:
    """The checks before or after a search, of one scope or of both.

    >>> [row.name for row in due("after", "model")]
    ['model-restored']
    """
    return [row for row in CHECKS if row.when == when and scope in (None, row.scope)]


def examine(context: Before, names: Iterable[str] | None = None, *, scope: str | None = None) -> Examined:
    """Run the checks that a context serves: `After` all of those behind the search, `Before` the others.

    Parameters
        names   only these, whatever their time.
        scope   "model" or "threat": the checks of the model as a whole need one run, not one per threat.

    >>> import torch
    >>> from trustbound.model.wrapping import wrap
    >>> from trustbound.threat import Threat
    >>> context = Before(
    ...     model=wrap(torch.nn.Linear(4, 2)),
    ...     inputs=torch.rand(32, 4),
    ...     labels=torch.zeros(32, dtype=torch.int64),
    ...     threat=Threat.parse("linf:0.1"),
    ... )
    >>> examine(context, ["determinism", "broken-graph"]).verdict("broken-graph")
    'PASS'
    """
    started = time.perf_counter()
    when = "after" if isinstance(context, After) else "before"
    rows = due(when, scope) if names is None else [CHECKS.find(name) for name in names]
    looked = [build(row.name).look(context) for row in rows]
    cost = sum((finding.cost for _, finding in looked), Cost()).all_for("checks")
    return Examined(
        checks=tuple(check for check, _ in looked),
        findings=tuple(finding for _, finding in looked),
        cost=dataclasses.replace(cost, seconds=time.perf_counter() - started),
    )
