"""Black-box and transfer attacks, which know less than the main attack, must not do better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from trustbound.attacks.registry import ATTACKS
from trustbound.audits.checks.broken_graph import blocked_gradients
from trustbound.audits.checks.context import After
from trustbound.audits.checks.finding import EvaluationCheck, Finding, idle, unmeasured
from trustbound.audits.checks.probe import (
    ProbeRun,
    accepted,
    answers,
    correct_rows,
    objective_of,
    probe_run,
    with_identity,
)
from trustbound.audits.checks.random_search import RandomSearch
from trustbound.audits.checks.significance import severest
from trustbound.audits.checks.substitute import copy_of
from trustbound.metrics.margin import rounding_error
from trustbound.record.cost import Cost
from trustbound.threat import Access


@dataclass(frozen=True, kw_only=True)
class BlackBoxBeatsWhiteBox(EvaluationCheck[After]):
    """On the control group, proven or not: who was broken without gradients only?

    Measures    of the examples that the white box left standing, the share that the black box broke: what the white
                box missed. What it broke itself does not make up for it. Any such example is a WARN that lists it;
                FAIL needs three of them, and a share that is no chance (exact, 5 %) where the truth is 5 %.
    Cost        none when the evidence holds both; else one search of `steps` queries on at most `examples` standing
                examples: `square`, or a random search where it does not serve.

    >>> BlackBoxBeatsWhiteBox().steps
    500
    """

    name: ClassVar[str] = "black-box-beats-white-box"
    needs: ClassVar[Access] = Access.SCORES
    balls: ClassVar[bool] = True  # in a set of few parameters chance is no weaker than a gradient

    examples: int = 64
    steps: int = 500

    def measure(self, context: After) -> Finding:
        """Compare row by row."""
        known = context.evidence
        if known.white is None:
            if context.threat.access < Access.GRADIENTS:
                return idle(f"the threat gives {context.threat.access.name.lower()}: no white box was run")
            return unmeasured("no gradient attack was run on a control group")
        asked = torch.ones(len(context), dtype=torch.bool) if known.control is None else known.control.cpu()
        rows = (asked & context.concerned().cpu()).nonzero()[:, 0]
        if known.clean_outputs is not None and not len(correct_rows(context, known.clean_outputs)):
            return idle("every example is misclassified or not concerned")
        if not len(rows):
            return unmeasured("the control group holds no example that is classified correctly and asked about")
        white, cost = known.white[rows].cpu(), Cost()
        proven = torch.zeros_like(white) if known.certified is None else known.certified[rows].cpu()
        open_ = ~white & ~proven
        stood = rows[open_]
        if known.black is not None:
            black = known.black[rows].cpu()
            missed = rows[black & open_]
        else:
            stood = stood[: self.examples]
            missed = stood
            if len(stood):
                probed = self._searched(context.select(stood))
                missed, cost = stood[probed.success.cpu()], probed.found.cost
        listed, left = missed.tolist(), len(stood)
        return Finding(
            value=len(listed) / max(left, 1),
            finding=f"of {len(rows)} control examples the white box left {left} standing, of which the black box broke "
            f"{len(listed)}" + (f" (rows {_list(listed)})" if listed else ""),
            advice="the gradients mislead: see finite-differences and transfer-success, give the gradient "
            "attacks more restarts, and count the black box's successes.",
            evidence={"rows": listed, "stood": left},
            cost=cost,
            at_most=severest(len(listed), left, share=0.05, least=3),
        )

    def _searched(self, standing: After) -> ProbeRun:
        if ATTACKS.find("square").serves(standing.threat.perturbations):
            return probe_run(standing, "square", steps=self.steps)
        return probe_run(standing, cast(Any, RandomSearch(steps=self.steps)))


@dataclass(frozen=True, kw_only=True)
class TransferSuccess(EvaluationCheck[After]):
    """Attack stand-ins of the model and try what they yield on the model itself.

    Stand-ins   (1) a small network taught the model's decisions around the examples; (2) the model with the
                identity in the backward pass of each module that kills gradients, where broken-graph names
                such modules (BPDA). Their final points, not their first successes, are tried.
    Measures    of the sampled examples that every direct attack left standing, the share broken through a stand-in.
                FAIL needs three of them, and a share that is no chance (exact, 5 %) where the truth is 5 %.
    Cost        5 forwards for each of up to `taught` examples, 1 forward for each tried point; with (2) also
                `steps` forwards and backwards.

    >>> TransferSuccess().taught
    512
    """

    name: ClassVar[str] = "transfer-success"
    classes: ClassVar[bool] = True
    needs: ClassVar[Access] = Access.GRADIENTS

    examples: int = 128
    taught: int = 512
    steps: int = 20

    def measure(self, context: After) -> Finding:
        """Teach, attack the copies, try."""
        if context.evidence.broken is None:
            return unmeasured("no direct attack was run")
        sample = context.sample(self.examples)
        broken = sample.evidence.broken
        assert broken is not None  # selected from what was checked above
        outputs, cost = answers(sample, sample.inputs)
        goal = objective_of(sample, outputs)
        alive = ~goal.reached(outputs) & goal.concerned()
        if not bool(alive.any()):
            return idle("every sampled example is misclassified or not concerned", cost)
        perturbations = context.threat.perturbations
        side = context.model.box.width
        reach = min(2.0 * perturbations.alone, 0.5 * side) if math.isfinite(perturbations.alone) else 0.1 * side
        copied, spent = copy_of(context.sample(self.taught), reach)
        cost += spent
        probed = probe_run(sample, model=copied, stop_early=False, steps=self.steps, loss="margin")
        tried = {"a taught copy": (probed.last, probed.last_theta)}
        blocking, _, spent = blocked_gradients(sample.sample(32))
        cost += spent
        paths = tuple(one.path for one in blocking if one.same_shape and one.path and one.share >= 0.5)
        through: dict[str, Tensor] = {}
        if paths:
            bridged = probe_run(sample, model=with_identity(context.model, paths), steps=self.steps, loss="margin")
            cost += bridged.found.cost
            through_it = bridged.found.adversarial, bridged.found.theta
            tried[f"the identity in place of {', '.join(paths)}"] = through_it
        ball = perturbations.around(sample.inputs, context.model.box)
        for name, (points, theta) in tried.items():
            answer, spent = answers(sample, points)
            cost += spent
            fell = goal.margin(answer) < -rounding_error(answer)  # within rounding error it is a tie
            through[name] = (fell & ball.contains(theta) & alive & accepted(context.model, points)).cpu()
        transferred = torch.stack(list(through.values())).any(dim=0)
        direct = broken.cpu() & alive.cpu()
        proven = torch.zeros_like(direct) if sample.evidence.certified is None else sample.evidence.certified.cpu()
        stood = alive.cpu() & ~direct & ~proven
        first, left, total = int((transferred & stood).sum()), int(stood.sum()), int(alive.sum())
        by = ", ".join(f"{name} {int((rows & ~direct).sum())}" for name, rows in through.items())
        return Finding(
            value=first / max(left, 1),
            finding=f"of {total} examples {int(direct.sum())} fell directly and {left} stand unproven; "
            f"{int(transferred.sum())} fell through a stand-in, {first} of them had stood ({by})",
            advice="a copy must not be a better guide than the model's own gradient: treat the model as "
            "masking its gradients, and add transfer and black-box attacks to the search.",
            evidence={"through": {name: int(rows.sum()) for name, rows in through.items()}},
            cost=cost,
            at_most="PASS" if first < 2 else severest(first, left, share=0.05, least=3),
        )


def _list(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:8]))
    return f"{shown} …" if len(rows) > 8 else shown
