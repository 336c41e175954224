"""How often the attack has no gradient to follow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.methods.iterative import AscentState, begin
from trustbound.attacks.problem import Problem
from trustbound.audits.checks.context import Before
from trustbound.audits.checks.finding import Finding, HealthCheck
from trustbound.audits.checks.probe import strike
from trustbound.errors import UnsupportedError
from trustbound.threat import Access


@dataclass(frozen=True, kw_only=True, eq=False)
class _Recorder:
    """PGD that notes what each gradient was before it is used: the last axis of `seen` is the three kinds."""

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.GRADIENTS
    restarts: ClassVar[int] = 1

    steps: int
    loss: str
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def init(self, problem: Problem) -> AscentState:
        """A random point of the set."""
        ours = problem.neighbourhood
        return begin(problem, ours.start(problem.random, 0), 2.5 * ours.scale() / self.steps)

    def step(self, problem: Problem, state: AscentState) -> AscentState:
        """One PGD step, noted; examples whose gradient is no number stay where they are."""
        slope = problem.gradient(state.theta, self.loss)
        flat = slope.gradient.flatten(1)
        kinds = torch.stack(((flat == 0).all(1), flat.isnan().any(1), flat.isinf().any(1)), dim=1)
        self.seen.append((problem.place.clone(), kinds))
        direction = problem.neighbourhood.steepest(state.theta, slope.gradient.nan_to_num(0.0, 0.0, 0.0))
        moved = state.theta.addcmul_(direction, problem.neighbourhood.column(state.step_size))
        state.theta = problem.neighbourhood.project(moved)
        return state


@dataclass(frozen=True, kw_only=True)
class GradientRate(HealthCheck[Before]):
    """Share of example-steps of a short search whose gradient is zero, NaN or infinite.

    Catches     quantised inputs, saturated losses, gradients cut on purpose, overflow.
    Cost        `steps` forwards and backwards per example that is not broken yet.

    >>> GradientRate(steps=5).steps
    5
    """

    name: ClassVar[str] = "gradient-rate"
    needs: ClassVar[Access] = Access.GRADIENTS

    examples: int = 64
    steps: int = 10
    loss: str = "ce"

    def measure(self, context: Before) -> Finding:
        """Search, and count over the examples that were still standing at each step."""
        recorder = _Recorder(steps=self.steps, loss=self.loss)
        try:
            struck = strike(context.sample(self.examples), recorder)
        except UnsupportedError as error:
            if "no gradient flows" not in str(error):
                raise
            return Finding(
                value=1.0,
                finding="no gradient reaches the inputs at all",
                advice="see broken-graph: declare a differentiable stand-in for the module it names.",
            )
        if not recorder.seen:
            return Finding(value=None, finding="every sampled example is misclassified: nothing was searched")
        kinds = torch.cat([kinds for _, kinds in recorder.seen])
        total = len(kinds)
        zero, nan, infinite = (int(kinds[:, kind].sum()) for kind in range(3))
        by_step = [float(kinds.any(dim=1).float().mean()) for _, kinds in recorder.seen]
        dead = torch.zeros(len(struck.alive), dtype=torch.int64)
        for place, kinds in recorder.seen:
            dead.index_add_(0, place.cpu(), kinds.any(dim=1).to(torch.int64).cpu())
        always = int((dead == len(recorder.seen)).sum())
        bad = int(torch.cat([kinds.any(dim=1) for _, kinds in recorder.seen]).sum())
        return Finding(
            value=bad / total,
            finding=f"of {total} example-steps {zero} had a zero gradient, {nan} NaN, {infinite} infinite; "
            f"{always} examples had none at any step",
            advice="the search is blind there: climb the margin loss, look at broken-graph and "
            "saturated-output, and trust black-box results only.",
            evidence={"by_step": by_step, "zero": zero, "nan": nan, "infinite": infinite, "always": always},
            cost=struck.found.cost,
        )
