"""Monotone budget: more steps and a larger epsilon must break more, and no limit must break everything."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from trustbound.audits.checks.context import After, Before
from trustbound.audits.checks.finding import EvaluationCheck, Finding, idle
from trustbound.audits.checks.probe import ProbeRun, probe_run
from trustbound.audits.checks.significance import LEVEL, excess_by_chance, holm, severest
from trustbound.record.cost import Cost
from trustbound.threat import Access, NormBall, PerturbationSet, Threat


@dataclass(frozen=True, kw_only=True)
class MonotoneBudget(EvaluationCheck[After]):
    """Attack with no limit but the box, and at half, once and twice epsilon, the steps and the restarts.

    Measures    share of examples that survive the unlimited attack, started at the clean input (a random
                start anywhere in the box would succeed without a gradient). Where a larger budget breaks
                significantly less (exact McNemar, corrected for the four comparisons), at least a WARN. FAIL
                needs survivors that are no chance where one in twenty survives.
    Catches     masked gradients of every kind: an attack that cannot win without limits proves nothing within.
    Cost        about 9 · steps forwards and backwards per example that is not broken early.

    >>> MonotoneBudget().steps
    20
    """

    name: ClassVar[str] = "monotone-budget"
    classes: ClassVar[bool] = True
    needs: ClassVar[Access] = Access.GRADIENTS

    examples: int = 64
    steps: int = 20
    loss: str = "margin"

    def measure(self, context: After) -> Finding:
        """Six short searches on one sample."""
        sample: Before = context.sample(self.examples)
        if not bool(sample.concerned().any()):
            return idle(f"no sampled example is one that {context.threat.goal} asks about")
        perturbations, features = context.threat.perturbations, sample.inputs[0].numel()
        widest = perturbations.diameter(context.model.box, features)
        base = min(perturbations.epsilon, widest)
        anything = NormBall("linf", math.inf)
        unlimited = self._with(sample, anything, steps=2 * self.steps, random_start=False)
        # A tighter sequence is run only where there is room for it below the box.
        runs: dict[str, ProbeRun] = {}
        for name, factor in (("half epsilon", 0.5), ("epsilon", 1.0), ("twice epsilon", 2.0)):
            runs[name] = self._with(sample, perturbations.resized(min(base * factor, widest)), steps=self.steps)
        runs["twice the steps"] = self._with(sample, perturbations.resized(base), steps=2 * self.steps)
        runs["two restarts"] = self._with(sample, perturbations.resized(base), steps=self.steps, restarts=2)
        cost: Cost = sum((one.found.cost for one in runs.values()), unlimited.found.cost)
        alive = int(unlimited.alive.sum())
        if not alive:
            return idle("every sampled example is misclassified already", cost)
        pairs = {}
        for less, more in (
            ("half epsilon", "epsilon"),
            ("epsilon", "twice epsilon"),
            ("epsilon", "twice the steps"),
            ("epsilon", "two restarts"),
        ):
            lost = int((runs[less].success & ~runs[more].success).sum())
            won = int((runs[more].success & ~runs[less].success).sum())
            pairs[less, more] = lost, won
        chances = holm([excess_by_chance(*pair) for pair in pairs.values()])
        falls = [
            f"{more} breaks {lost - won} fewer than {less}"
            for ((less, more), (lost, won)), chance in zip(pairs.items(), chances, strict=True)
            if chance < LEVEL
        ]
        survivors = int((unlimited.alive & ~unlimited.success).sum())
        left = ", ".join(f"{name} {run.survivors:.1%}" for name, run in runs.items())
        return Finding(
            value=unlimited.survivors,
            finding=f"unlimited, {unlimited.survivors:.1%} of {alive} survive; {left}"
            + (f"; not monotone: {'; '.join(falls)}" if falls else ""),
            advice="an attack that fails without limits fails for its own reasons: see gradient-rate, "
            "broken-graph, finite-differences and determinism before quoting robust accuracy."
            if unlimited.survivors > 0.05
            else "let the search run longer, or shorten its steps: more budget must not break less.",
            evidence={"survivors": {name: run.survivors for name, run in runs.items()}, "falls": falls},
            cost=cost,
            at_least="WARN" if falls else "PASS",
            at_most=severest(survivors, alive, share=0.05),
        )

    def _with(self, sample: Before, perturbations: PerturbationSet, **params: Any) -> ProbeRun:
        threat: Threat = dataclasses.replace(sample.threat, perturbations=perturbations)
        return probe_run(sample, threat=threat, loss=self.loss, **params)
