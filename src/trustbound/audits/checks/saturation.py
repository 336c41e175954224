"""Outputs too sharp for a gradient: probabilities in place of logits, and logits of the wrong scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.oracle import Oracle
from trustbound.audits.checks.context import Before
from trustbound.audits.checks.finding import Finding, HealthCheck
from trustbound.audits.checks.probe import Rescaled, strike
from trustbound.audits.checks.significance import excess_by_chance
from trustbound.errors import UnsupportedError
from trustbound.measure.losses import loss
from trustbound.record.cost import Cost
from trustbound.threat import Access


@dataclass(frozen=True, kw_only=True)
class SaturatedOutput(HealthCheck[Before]):
    """Are the outputs logits, and is there anything left of the loss's gradient?

    Measures    share of examples whose outputs, read as what they are (probabilities, or logits through a
                softmax), are one-hot to the last bit *and* whose cross-entropy gradient with respect to the
                inputs is exactly zero. Rows that are non-negative and sum to 1 are probabilities: at least a
                WARN, since every surrogate then acts through a second softmax.
    Catches     softmax inside the model, temperatures such as softmax(200 z), logits of enormous scale.
    Cost        1 forward and 1 backward per example.

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

    examples: int = 128

    def measure(self, context: Before) -> Finding:
        """Look at outputs and gradient together; neither alone accuses."""
        sample = context.sample(self.examples)
        inputs, labels = sample.inputs.to(context.model.device), sample.labels.to(context.model.device)
        places = torch.arange(len(inputs))

        def surrogate(outputs: Tensor, rows: slice) -> Tensor:
            return loss("ce")(outputs, labels[rows])

        gradient: Tensor | None = None
        with Oracle(context.model, examples=len(inputs), access=context.threat.access) as oracle:
            if context.threat.access is Access.GRADIENTS:
                try:
                    gradient = oracle.gradient(inputs, places, surrogate).gradient
                except UnsupportedError:  # a broken graph has its own check
                    gradient = None
            outputs = oracle.outputs(inputs, places)
        probable = are_probabilities(outputs) and context.threat.access > Access.DECISIONS
        rows = outputs if probable else outputs.softmax(dim=1)
        one_hot = (rows.amax(dim=1) == 1.0) & ((rows != 0).sum(dim=1) == 1)
        dead = one_hot if gradient is None else one_hot & (gradient.flatten(1) == 0).all(dim=1)
        kind = "probabilities (rows ≥ 0 that sum to 1)" if probable else "logits"
        share = float(dead.float().mean()) if context.threat.access > Access.DECISIONS else 0.0
        return Finding(
            value=share,
            finding=f"outputs are {kind}; {int(one_hot.sum())} of {len(rows)} rows are one-hot to the last "
            f"bit, {int(dead.sum())} of them without any gradient",
            advice="hand over the logits: drop the softmax, or pass output= to wrap or load_model. "
            "If the last layer scales its logits, attack with the margin or DLR loss and rescale."
            if probable
            else "the logits are too large for the cross-entropy: attack with the margin or DLR loss.",
            evidence={"probabilities": probable, "one_hot": int(one_hot.sum()), "dead": int(dead.sum())},
            cost=oracle.cost,
            at_least="WARN" if probable else "PASS",
        )


def are_probabilities(outputs: Tensor) -> bool:
    """Whether every row is non-negative and sums to 1 to 1e-3: no set of logits does so on many rows.

    >>> are_probabilities(torch.rand(9, 4)), are_probabilities(torch.rand(9, 4).softmax(1))
    (False, True)
    """
    sums = outputs.double().sum(dim=1)
    return bool((outputs >= 0).all() and ((sums - 1.0).abs() < 1e-3).all()) and len(outputs) > 1


@dataclass(frozen=True, kw_only=True)
class LogitScaleInvariance(HealthCheck[Before]):
    """Would the attack as run break more if the logits were multiplied by a constant?

    Measures    broken share at the best of `scales` minus that at scale 1, for one loss; a gain that an exact
                McNemar test at 5 % calls chance is reported and passed.
    Catches     logits so large that the cross-entropy is flat, or so small that rounding moves it.
    Cost        (scales + 1) · steps forwards and backwards per example.

    >>> LogitScaleInvariance().scales
    (0.001, 0.1, 10.0, 1000.0)
    """

    name: ClassVar[str] = "logit-scale-invariance"
    needs: ClassVar[Access] = Access.GRADIENTS

    examples: int = 64
    steps: int = 10
    loss: str = "ce"
    scales: tuple[float, ...] = (1e-3, 1e-1, 1e1, 1e3)

    def measure(self, context: Before) -> Finding:
        """The same search at each scale."""
        sample = context.sample(self.examples)
        plain = strike(sample, steps=self.steps, loss=self.loss)
        cost: Cost = plain.found.cost
        share = {1.0: float(plain.success.float().mean())}
        gain, lost, best = 0, 0, 1.0
        for scale in self.scales:
            other = strike(sample, model=Rescaled(context.model, scale), steps=self.steps, loss=self.loss)
            cost = cost + other.found.cost
            share[scale] = float(other.success.float().mean())
            more = int((other.success & ~plain.success).sum())
            fewer = int((plain.success & ~other.success).sum())
            if more - fewer > gain - lost:
                gain, lost, best = more, fewer, scale
        chance = excess_by_chance(gain, lost)
        by_scale = ", ".join(f"×{scale:g} {share[scale]:.1%}" for scale in sorted(share))
        return Finding(
            value=(gain - lost) / max(len(sample), 1),
            finding=f"broken share of {self.steps} {self.loss} steps by logit scale: {by_scale}",
            advice=f"climb a loss that is blind to the scale (margin, DLR), or divide the logits: at ×{best:g} "
            f"the same attack breaks {gain} more of {len(sample)}.",
            evidence={"broken": share, "chance": chance},
            cost=cost,
            at_most="FAIL" if chance < 0.05 else "PASS",
        )
