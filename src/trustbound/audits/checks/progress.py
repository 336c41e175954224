"""Did the search use what it had: did it stay, did it arrive, did it keep what it found?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from trustbound.audits.checks.context import After
from trustbound.audits.checks.finding import EvaluationCheck, Finding, idle
from trustbound.audits.checks.probe import Listening, accepted, answers, correct_rows, objective_of, probe_run
from trustbound.audits.checks.reported import sizes, widths_of
from trustbound.metrics.margin import rounding_error
from trustbound.record.cost import Cost
from trustbound.threat import Access


@dataclass(frozen=True, kw_only=True)
class BestAgainstLast(EvaluationCheck[After]):
    """How many examples does the search break on its way and hold no longer at its last point?

    Measures    share of the examples that were broken somewhere but are not at the end, from the evidence, or
                from a search of its own without early stopping.
    Cost        none with evidence, else `steps` forwards and backwards per example.

    >>> BestAgainstLast(steps=10).steps
    10
    """

    name: ClassVar[str] = "best-against-last"
    needs: ClassVar[Access] = Access.GRADIENTS

    examples: int = 64
    steps: int = 20
    loss: str = "ce"

    def measure(self, context: After) -> Finding:
        """Compare best and last."""
        known, cost = context.evidence, Cost()
        if known.last is not None and known.broken is not None:
            best, last = known.broken, known.last & known.broken
        else:
            sample = context.sample(self.examples)
            probed = probe_run(sample, stop_early=False, steps=self.steps, loss=self.loss)
            outputs, spent = answers(sample, probed.last)
            cost = probed.found.cost + spent
            if not bool(probed.alive.any()):
                return idle("every sampled example is misclassified or not concerned", cost)
            best = probed.success
            last = objective_of(sample, outputs).reached(outputs) & probed.alive
        left = best & ~last
        total = max(len(best), 1)
        return Finding(
            value=int(left.sum()) / total,
            finding=f"of {total} examples {int(best.sum())} were broken on the path, {int(last.sum())} still at "
            "the last point",
            advice="shorten the steps or let them decay; of a random model, average the gradient over draws.",
            evidence={"left": left.nonzero()[:, 0].tolist()},
            cost=cost,
        )


@dataclass(frozen=True, kw_only=True)
class IncompleteOptimisation(EvaluationCheck[After]):
    """Was the loss of the examples that stand still rising when the search ended?

    Measures    of the whole improvement of the smallest margin, the part made in the last tenth of the steps,
                summed over the examples that stand; from the evidence's trace, or from a search of its own.
                With fewer than `enough` such examples nothing is concluded.
    Cost        none with evidence, else `steps` forwards and backwards per example.

    >>> IncompleteOptimisation().enough
    5
    """

    name: ClassVar[str] = "incomplete-optimisation"
    needs: ClassVar[Access] = Access.GRADIENTS

    examples: int = 64
    steps: int = 40
    loss: str = "margin"
    enough: int = 5

    def measure(self, context: After) -> Finding:
        """Read the trace."""
        cost = Cost()
        trace = context.evidence.trace
        if trace is None:
            sample = context.sample(self.examples)
            probed = probe_run(sample, stop_early=False, steps=self.steps, loss=self.loss)
            trace, cost = probed.trace, probed.found.cost
        if len(trace) < 10:
            return idle(f"{len(trace)} steps are too few to see a trend", cost)
        standing = torch.isfinite(trace).all(dim=0) & (trace[-1] >= 0)
        count = int(standing.sum())
        if count < self.enough:
            return Finding(
                value=0.0, finding=f"only {count} examples stand: there is nothing left to improve", cost=cost
            )
        rows = trace[:, standing].double()
        tail = rows[-1 - max(len(rows) // 10, 1)] - rows[-1]
        whole = rows[0] - rows[-1]
        share = float(tail.sum() / whole.sum()) if float(whole.sum()) > 0 else 0.0
        return Finding(
            value=share,
            finding=f"the last tenth of {len(rows)} steps made {share:.1%} of the improvement of {count} "
            "standing examples",
            advice="give the search more steps, or larger ones, until this share falls.",
            evidence={"standing": count, "mean_margin": [float(one) for one in rows.mean(dim=1)]},
            cost=cost,
        )


@dataclass(frozen=True, kw_only=True)
class SilentSuccess(EvaluationCheck[After]):
    """Listen to every question the search asks the model, and compare with what it returns.

    Measures    share of examples for which some question was an adversarial point inside the set, confirmed
                by a fresh forward beyond rounding error, and no success came back. The count does not use the
                search's own books.
    Cost        `steps` forwards and backwards per example, and a forward for each doubtful point.

    >>> SilentSuccess().steps
    10
    """

    name: ClassVar[str] = "silent-success"
    classes: ClassVar[bool] = True
    needs: ClassVar[Access] = Access.GRADIENTS
    balls: ClassVar[bool] = True

    examples: int = 64
    steps: int = 10
    loss: str = "ce"

    def measure(self, context: After) -> Finding:
        """Count independently."""
        sample = context.sample(self.examples)
        outputs, cost = answers(sample, sample.inputs)
        standing = correct_rows(sample, outputs)
        if not len(standing):
            return idle("every sampled example is misclassified or not concerned", cost)
        sample = sample.select(standing)
        goal = objective_of(sample, outputs)
        listener = Listening(context.model)
        probed = probe_run(sample, model=listener, stop_early=False, steps=self.steps, loss=self.loss)
        cost += probed.found.cost
        norm = context.threat.perturbations.norm
        limit = context.threat.perturbations.epsilon + context.threat.perturbations.tolerance(
            context.model.box, sample.inputs[0].numel()
        )
        passed = torch.zeros(len(sample), dtype=torch.bool, device=sample.inputs.device)
        unconfirmed = 0
        for points, answer in listener.heard:
            if len(points) != len(sample):
                continue
            inside = sizes(points, sample.inputs, norm, widths_of(context.threat.perturbations)) <= limit
            hit = goal.reached(answer) & inside & ~probed.found.success & ~passed
            rows = hit.nonzero()[:, 0]
            rows = rows[accepted(context.model, points[rows])]
            if len(rows):
                again, spent = answers(sample, points[rows])
                cost += spent
                margin, error = goal.select(rows).margin(again), rounding_error(again)
                real = margin < -error  # within rounding error another batch may say otherwise: a tie, no success
                unconfirmed += int((margin > error).sum())
                passed[rows[real]] = True
        lost = int(passed.sum())
        return Finding(
            value=lost / len(sample),
            finding=f"{len(listener.heard)} model calls were heard; {lost} of {len(sample)} examples were "
            f"adversarial on the path and not returned, {unconfirmed} more did not repeat",
            advice="the model is random: its successes do not repeat, so declare it (--draws, Adaptation(draws=…))."
            if unconfirmed
            else "this is a defect of the search: report it with the model and the seed.",
            evidence={"rows": passed.nonzero()[:, 0].tolist(), "unconfirmed": unconfirmed},
            cost=cost,
            at_most="WARN" if unconfirmed else "FAIL",
        )
