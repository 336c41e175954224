"""Attackers who know less than the main attack must not do better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.registry import ATTACKS
from trustbound.audits.checks.broken_graph import deaths
from trustbound.audits.checks.context import After
from trustbound.audits.checks.finding import Finding, HealthCheck
from trustbound.audits.checks.probe import answers, objective_of, strike, with_identity
from trustbound.audits.checks.significance import severest
from trustbound.audits.checks.surrogate import copy_of
from trustbound.record.cost import Cost
from trustbound.threat import Access


@dataclass(frozen=True, kw_only=True)
class BlackBoxBeatsWhiteBox(HealthCheck[After]):
    """On the control group, where every attack was run: who was broken without gradients only?

    Measures    share of the group broken by the black box and not by the white box; any such example is a
                WARN that lists it. FAIL needs an excess over 5 points that an exact McNemar test at 5 % does
                not call chance.
    Cost        none when the evidence holds both; else one `square` search of `steps` queries.

    >>> BlackBoxBeatsWhiteBox().steps
    500
    """

    name: ClassVar[str] = "black-box-beats-white-box"
    needs: ClassVar[Access] = Access.SCORES

    examples: int = 64
    steps: int = 500

    def measure(self, context: After) -> Finding:
        """Compare row by row."""
        known = context.evidence
        if known.white is None:
            return Finding(value=None, finding="no gradient attack was run on a control group")
        rows = torch.arange(len(context)) if known.control is None else known.control.nonzero()[:, 0].cpu()
        if not len(rows):
            return Finding(value=None, finding="the control group is empty")
        white, cost = known.white[rows].cpu(), Cost()
        if known.black is not None:
            black = known.black[rows].cpu()
        elif any(row.name == "square" and context.threat.allowed.norm in row.norms for row in ATTACKS):
            rows = rows[: self.examples]
            white = white[: self.examples]
            struck = strike(context.select(rows), "square", steps=self.steps)
            black, cost = struck.success.cpu(), struck.found.cost
        else:
            return Finding(value=None, finding=f"no black-box attack serves {context.threat.allowed.norm}")
        only_black, only_white = black & ~white, white & ~black
        listed = rows[only_black].tolist()
        first, second, total = len(listed), int(only_white.sum()), len(rows)
        return Finding(
            value=first / total,
            finding=f"of {total} control examples the black box alone broke {first}"
            + (f" (rows {_list(listed)})" if listed else "")
            + f", the white box alone {second}",
            advice="the gradients mislead: see finite-differences and transfer-success, give the gradient "
            "attacks more restarts, and count the black box's successes.",
            evidence={"rows": listed, "only_white": second},
            cost=cost,
            at_most=severest(first, second, total, points=0.05),
        )


@dataclass(frozen=True, kw_only=True)
class TransferSuccess(HealthCheck[After]):
    """Attack stand-ins of the model and try what they yield on the model itself.

    Stand-ins   (1) a small network taught the model's decisions around the examples; (2) the model with the
                identity in the backward pass of each module that kills gradients, where broken-graph names
                such modules (BPDA). Their final points, not their first successes, are tried.
    Measures    share of the sample broken through a stand-in and by no direct attack.
    Cost        5 forwards for each of up to `taught` examples, 1 forward for each tried point; with (2) also
                `steps` forwards and backwards.

    >>> TransferSuccess().taught
    512
    """

    name: ClassVar[str] = "transfer-success"
    needs: ClassVar[Access] = Access.GRADIENTS

    examples: int = 128
    taught: int = 512
    steps: int = 20

    def measure(self, context: After) -> Finding:
        """Teach, attack the copies, try."""
        if context.evidence.broken is None:
            return Finding(value=None, finding="no direct attack was run")
        sample = context.sample(self.examples)
        broken = sample.evidence.broken
        assert broken is not None  # selected from what was checked above
        outputs, cost = answers(sample, sample.inputs)
        goal = objective_of(sample, outputs)
        alive = ~goal.reached(outputs)
        allowed = context.threat.allowed
        side = context.model.box.width
        reach = min(2.0 * allowed.epsilon, 0.5 * side) if allowed.norm == "linf" else 0.1 * side
        copied, spent = copy_of(context.sample(self.taught), reach)
        cost += spent
        tried: dict[str, Tensor] = {
            "a taught copy": strike(sample, model=copied, stop_early=False, steps=self.steps, loss="margin").last
        }
        killers, _, spent = deaths(sample.sample(32))
        cost += spent
        paths = tuple(one.path for one in killers if one.same_shape and one.path and one.share >= 0.5)
        through: dict[str, Tensor] = {}
        if paths:
            bridged = strike(sample, model=with_identity(context.model, paths), steps=self.steps, loss="margin")
            cost += bridged.found.cost
            tried[f"the identity in place of {', '.join(paths)}"] = bridged.found.adversarial
        ball = allowed.around(sample.inputs, context.model.box)
        for name, points in tried.items():
            answer, spent = answers(sample, points)
            cost += spent
            through[name] = (goal.reached(answer) & ball.contains(points) & alive).cpu()
        transferred = torch.stack(list(through.values())).any(dim=0)
        direct = broken.cpu() & alive.cpu()
        first, second = int((transferred & ~direct).sum()), int((direct & ~transferred).sum())
        total = max(int(alive.sum()), 1)
        by = ", ".join(f"{name} {int((rows & ~direct).sum())}" for name, rows in through.items())
        return Finding(
            value=first / total,
            finding=f"of {total} examples {int(direct.sum())} fell directly, {int(transferred.sum())} through "
            f"a stand-in, {first} through a stand-in only ({by})",
            advice="a copy must not be a better guide than the model's own gradient: treat the model as "
            "masking its gradients, and add transfer and black-box attacks to the search.",
            evidence={"through": {name: int(rows.sum()) for name, rows in through.items()}},
            cost=cost,
            at_most=severest(first, second, total, points=0.05),
        )


def _list(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:8]))
    return f"{shown} …" if len(rows) > 8 else shown
