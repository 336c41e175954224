"""Vanishing gradients: how often the attack has no gradient to follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch

from trustbound.attacks import Attack
from trustbound.audits.checks.context import Before
from trustbound.audits.checks.finding import EvaluationCheck, Finding, idle
from trustbound.audits.checks.gradient_attacks import Noted, Noting, abridged
from trustbound.audits.checks.probe import probe_run
from trustbound.audits.checks.registry import CHECKS
from trustbound.audits.checks.significance import severest
from trustbound.errors import UnsupportedError
from trustbound.record.cost import Cost
from trustbound.threat import Access


def noted(context: Before, attacks: Sequence[Attack]) -> tuple[list[Noted], Cost]:
    """Run attacks on a context's examples and note every gradient that they are given.

    Raises      UnsupportedError when none of them is given any.
    """
    notes: list[Noted] = []
    cost, refused = Cost(), []
    for attack in attacks:
        noting = Noting(attack)
        try:
            cost += probe_run(context, cast(Any, noting)).found.cost
        except UnsupportedError as error:
            refused.append(error)
        notes += noting.notes
    if refused and len(refused) == len(attacks):
        raise refused[0]
    return notes, cost


@dataclass(frozen=True, kw_only=True)
class GradientRate(EvaluationCheck[Before]):
    """Share of example-steps of the search whose gradient is zero, NaN or infinite.

    Measures    short forms of the attacks that the search runs, on the losses that it climbs. Where one of its losses
                is blind and another is not, at most a WARN: what that costs is for logit-scale-invariance to say.
    Catches     quantised inputs, saturated losses, gradients cut on purpose, overflow.
    Cost        the short forms, on examples that are not broken yet.

    >>> GradientRate(steps=5).steps
    5
    """

    name: ClassVar[str] = "gradient-rate"
    needs: ClassVar[Access] = Access.GRADIENTS

    examples: int = 64
    steps: int = 10

    def measure(self, context: Before) -> Finding:
        """Search, and count over the examples that were still standing at each step."""
        sample = context.sample(self.examples)
        try:
            notes, cost = noted(sample, abridged(sample.ascents(), self.steps))
        except UnsupportedError as error:
            if "no gradient flows" not in str(error):
                raise
            return Finding(
                value=1.0,
                finding="no gradient reaches the inputs at all",
                advice="see broken-graph: declare a differentiable stand-in for the module it names.",
            )
        if not notes:
            return idle("every sampled example is misclassified or not concerned: nothing was searched", cost)
        kinds = torch.cat([note.dead for note in notes])
        zero, nan, infinite = (int(kinds[:, kind].sum()) for kind in range(3))
        total, bad = len(kinds), int(kinds.any(dim=1).sum())
        dead, made = torch.zeros(len(sample), dtype=torch.int64), torch.zeros(len(sample), dtype=torch.int64)
        losses: dict[str, list[int]] = {}
        for note in notes:
            blind = note.dead.any(dim=1).to(torch.int64)
            dead.index_add_(0, note.rows, blind)
            made.index_add_(0, note.rows, torch.ones_like(blind))
            count = losses.setdefault(note.loss, [0, 0])
            count[0] += int(blind.sum())
            count[1] += len(blind)
        always, searched = int(((dead == made) & (made > 0)).sum()), int((made > 0).sum())
        shares = {name: count[0] / count[1] for name, count in losses.items()}
        some_see = min(shares.values()) <= cast(float, CHECKS.find(self.name).warn)
        return Finding(
            value=bad / total,
            finding=f"of {total} example-steps {zero} had a zero gradient, {nan} NaN, {infinite} infinite; "
            f"{always} of {searched} examples had none at any step"
            + (f" ({', '.join(f'{name} {share:.1%}' for name, share in shares.items())})" if bad and shares else ""),
            advice="the search is blind there: climb the margin loss, look at broken-graph and "
            "saturated-output, and trust black-box results only.",
            evidence={"by_loss": shares, "zero": zero, "nan": nan, "infinite": infinite, "always": always},
            cost=cost,
            at_most="WARN" if some_see else severest(int((dead > 0).sum()), searched, share=0.05),
        )
