"""Outputs too sharp for a gradient: probabilities in place of logits, and logits of the wrong scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks import Attack
from trustbound.audits.checks.context import After, Before
from trustbound.audits.checks.finding import EvaluationCheck, Finding, idle, unmeasured
from trustbound.audits.checks.gradient_attacks import Noted, abridged, said
from trustbound.audits.checks.gradient_rate import noted
from trustbound.audits.checks.probe import Rescaled, answers, correct_rows, probe_run
from trustbound.audits.checks.significance import LEVEL, excess_by_chance, holm, severest
from trustbound.errors import UnsupportedError
from trustbound.record.cost import Cost
from trustbound.threat import Access


@dataclass(frozen=True, kw_only=True)
class SaturatedOutput(EvaluationCheck[Before]):
    """Are the outputs logits, and is there anything left of the gradients that the search climbs?

    Measures    share of examples whose outputs, read as what they are (probabilities, or logits through a
                softmax), are one-hot to the last bit *and* for which no attack of the search has a gradient at its
                start. Without gradients only one-hot probabilities count: scores of logits still tell points apart.
                Rows that are non-negative and sum to 1 are probabilities: at least a WARN, since every surrogate then
                acts through a second softmax.
    Catches     softmax inside the model, temperatures such as softmax(200 z), logits of a scale at which every loss of
                the search is flat. Logits of a large scale that some loss of the search still climbs pass: what a wrong
                scale costs is for logit-scale-invariance to say.
    Cost        1 forward per example, and one step of each attack of the search.

    >>> from trustbound.model.wrapping import wrap
    >>> from trustbound.threat import Threat
    >>> context = Before(
    ...     model=wrap(torch.nn.Softmax(dim=1)),
    ...     inputs=torch.rand(16, 4),
    ...     labels=torch.zeros(16, dtype=torch.int64),
    ...     threat=Threat.parse("linf:0.1"),
    ... )
    >>> SaturatedOutput().run(context).verdict
    'WARN'
    """

    name: ClassVar[str] = "saturated-output"
    classes: ClassVar[bool] = True
    needs: ClassVar[Access] = Access.GRADIENTS  # who uses none misses none

    examples: int = 128

    def measure(self, context: Before) -> Finding:
        """Look at outputs and gradients together; neither alone accuses."""
        sample = context.sample(self.examples)
        outputs, cost = answers(sample, sample.inputs)
        outputs = outputs.cpu()
        probable = are_probabilities(outputs)
        rows = outputs if probable else outputs.softmax(dim=1)
        one_hot = (rows.amax(dim=1) == 1.0) & ((rows != 0).sum(dim=1) == 1)
        tried = torch.ones_like(one_hot)
        blind = torch.full_like(one_hot, probable)
        if context.threat.access is Access.GRADIENTS:
            try:
                notes, spent = noted(sample, abridged(sample.ascents(), 1))
                cost += spent
                tried, blind = _blind(notes, len(sample))
            except UnsupportedError:  # a broken graph has its own check
                pass
        dead = one_hot & tried & blind
        kind = "probabilities (rows ≥ 0 that sum to 1)" if probable else "logits"
        total = int(tried.sum())
        return Finding(
            value=int(dead.sum()) / max(total, 1),
            finding=f"outputs are {kind}; {int(one_hot.sum())} of {len(rows)} rows are one-hot to the last "
            f"bit, {int(dead.sum())} of {total} searched leave the search no gradient",
            advice="hand over the logits: drop the softmax, or pass output= to wrap or load_model. "
            "If the last layer scales its logits, attack with the margin or DLR loss and rescale."
            if probable
            else "the logits are too large for the losses of the search: divide them, or attack with the margin loss.",
            evidence={"probabilities": probable, "one_hot": int(one_hot.sum()), "dead": int(dead.sum())},
            cost=cost,
            at_least="WARN" if probable else "PASS",
            at_most=severest(int(dead.sum()), total, share=0.02),
        )


def _blind(notes: list[Noted], count: int) -> tuple[Tensor, Tensor]:
    """Which examples were searched, and which of these never had a gradient, (N,) bool."""
    tried, seen = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    for note in notes:
        tried[note.rows] = True
        seen[note.rows[~note.dead.any(dim=1)]] = True
    return tried, tried & ~seen


def are_probabilities(outputs: Tensor) -> bool:
    """Whether every row is non-negative and sums to 1, to 1e-3 or the rounding of a half-precision softmax.

    No set of logits does so on many rows; a single row must do so to 1e-5.

    >>> are_probabilities(torch.rand(9, 4)), are_probabilities(torch.rand(9, 4).softmax(1))
    (False, True)
    """
    slack = max(1e-3 if len(outputs) > 1 else 1e-5, 2 * torch.finfo(outputs.dtype).eps)
    sums = outputs.double().sum(dim=1)
    return bool((outputs >= 0).all() and ((sums - 1.0).abs() < slack).all())


@dataclass(frozen=True, kw_only=True)
class LogitScaleInvariance(EvaluationCheck[After]):
    """Would the search as it was run break more if the logits were multiplied by a constant?

    Measures    of the examples that the search left standing, the share that its own attacks, in a short form, break
                when the logits are multiplied by one of `scales`, or brought to a spread of `usual`, and not at their
                own scale; the scale that gains most. A gain that exact McNemar tests, corrected for all scales,
                call chance is reported and passed.
                Attacks of the catalogue that the search did not run are not asked: what they lose changes no bound.
    Catches     logits so large that a loss of the search is flat, or so small that rounding moves it.
    Cost        3 times the short forms of the search's attacks, on at most `examples` standing examples, where the two
                outermost scales lead the same way as the model's own; (scales + 1) times elsewhere.

    >>> LogitScaleInvariance().scales[0], LogitScaleInvariance().scales[-1]
    (1e-09, 1000000000.0)
    """

    name: ClassVar[str] = "logit-scale-invariance"
    classes: ClassVar[bool] = True
    needs: ClassVar[Access] = Access.GRADIENTS

    examples: int = 64
    steps: int = 20
    scales: tuple[float, ...] = (1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9)
    usual: float = 10.0

    def measure(self, context: After) -> Finding:
        """The same search at each scale."""
        known = context.evidence.clean_outputs
        outputs, cost = answers(context, context.inputs) if known is None else (known, Cost())
        standing = torch.zeros(len(context), dtype=torch.bool)
        standing[correct_rows(context, outputs)] = True
        for settled in (context.evidence.broken, context.evidence.certified):
            if settled is not None:
                standing &= ~settled.cpu()
        if not bool(standing.any()):
            return idle("the search left nothing standing: no scale could break more", cost)
        sample = context.select(standing.nonzero()[:, 0]).sample(self.examples)
        # One attack a loss: how sharp a smoothing is, or where it starts, is of no account to its scale.
        attacks = tuple({said(one): one for one in reversed(abridged(sample.ascents(), self.steps))}.values())[::-1]
        plain, spent = _tried(sample, attacks, 1.0)
        cost += spent
        if plain is None:
            return unmeasured("no gradient reaches the inputs (see broken-graph)", cost)
        pairs: dict[float, tuple[int, int]] = {}
        beyond: list[float] = []
        same = True
        scales = sorted({*self.scales, *self._usual(outputs[correct_rows(context, outputs).to(outputs.device)])})
        for number, scale in enumerate((scales[0], scales[-1], *scales[1:-1])):
            # Who goes the same way at both ends of the range goes it everywhere.
            if number >= 2 and len(pairs) >= 2 and same:
                break
            other, spent = _tried(sample, attacks, scale)
            cost += spent
            if other is None:
                beyond.append(scale)
                continue
            pairs[scale] = int((other.broken & ~plain.broken).sum()), int((plain.broken & ~other.broken).sum())
            same &= other.follows(plain)
        pairs = dict(sorted(pairs.items()))
        if not pairs:
            return unmeasured("at every other scale the outputs leave the range of their type", cost)
        chances = dict(zip(pairs, holm([excess_by_chance(*pair) for pair in pairs.values()]), strict=True))
        best = min(pairs, key=lambda scale: (chances[scale], pairs[scale][1] - pairs[scale][0]))
        gain, lost = pairs[best]
        names = ", ".join(map(said, attacks))
        by_scale = ", ".join(f"×{scale:g} {first}" for scale, (first, _) in pairs.items())
        return Finding(
            value=(gain - lost) / len(sample),
            finding=f"of {len(sample)} examples that stand, {names} broke at other logit scales only: {by_scale}"
            + (", by the same way as at the model's own scale" if same else "")
            + (f"; the outputs' type does not hold {', '.join(f'×{scale:g}' for scale in beyond)}" if beyond else ""),
            advice=f"climb a loss that is blind to the scale (margin, DLR), or multiply the logits: at ×{best:g} "
            f"the same attacks break {gain} more of {len(sample)}.",
            evidence={"gained": pairs, "chance": chances, "beyond": beyond, "attacks": names, "same": same},
            cost=cost,
            at_most="FAIL" if chances[best] < LEVEL else "PASS",
        )

    def _usual(self, outputs: Tensor) -> tuple[float, ...]:
        """The factor that brings logits (N, C) to the usual spread, where theirs is another."""
        spread = float((outputs.amax(dim=1) - outputs.amin(dim=1)).double().median())
        factor = self.usual / spread if spread > 0 else 1.0
        return (float(f"{factor:.1g}"),) if math.isfinite(factor) and not 0.2 < factor < 5.0 else ()


@dataclass(frozen=True, eq=False)
class _Tried:
    """What the attacks broke, (N,) bool, and where each of them ended, (N, *F)."""

    broken: Tensor
    ends: tuple[Tensor, ...]

    def follows(self, other: _Tried) -> bool:
        """Whether nine of ten examples ended where they did in the other search."""
        if len(self.ends) != len(other.ends):
            return False
        pairs = zip(self.ends, other.ends, strict=True)
        apart = torch.stack([(end - last).flatten(1).abs().amax(dim=1) for end, last in pairs])
        return bool(torch.equal(self.broken, other.broken) and float((apart < 1e-6).double().mean()) >= 0.9)


def _tried(sample: Before, attacks: tuple[Attack, ...], scale: float) -> tuple[_Tried | None, Cost]:
    """The attacks at a scale; None where the outputs or their gradients do not bear it."""
    model = sample.model if scale == 1.0 else Rescaled(sample.model, scale)
    broken, cost = torch.zeros(len(sample), dtype=torch.bool), Cost()
    ends: list[Tensor] = []
    if scale != 1.0:
        outputs, cost = answers(sample, sample.inputs, model)
        if not bool(torch.isfinite(outputs).all()):
            return None, cost
    for attack in attacks:
        try:
            probed = probe_run(sample, attack, model=model)
        except UnsupportedError:
            continue
        cost += probed.found.cost
        ends.append(probed.last)
        broken |= probed.success.cpu()
    return (_Tried(broken, tuple(ends)) if ends else None), cost
