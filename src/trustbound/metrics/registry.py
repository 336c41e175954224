"""The surrogate losses by name, without importing torch: what the command line and the documents may list."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """One loss that an attack may climb: its name, where it lives, one line about it, and of what it is a function."""

    name: str
    target: str
    line: str
    space: str


LOSSES = Registry(
    "a loss",
    LossRow(
        name="ce",
        target="trustbound.metrics.losses:ce",
        line="cross-entropy: the training loss itself",
        space="log-probabilities",
    ),
    LossRow(
        name="margin",
        target="trustbound.metrics.losses:margin",
        line="best other logit minus the true one",
        space="logits",
    ),
    LossRow(
        name="difference",
        target="trustbound.metrics.losses:difference",
        line="logit of one class minus the true one, whichever others lie above both",
        space="logits",
    ),
    LossRow(
        name="probability-margin",
        target="trustbound.metrics.losses:probability_margin",
        line="best other probability minus the true one",
        space="probabilities",
    ),
    LossRow(
        name="soft-margin",
        target="trustbound.metrics.losses:soft_margin",
        line="log-odds of a wrong answer: cross-entropy's direction, without its saturation",
        space="logits",
    ),
    LossRow(
        name="scaled-soft-margin",
        target="trustbound.metrics.losses:scaled_soft_margin",
        line="the soft margin at a temperature of the row's own: blind to the scale and shift of the logits",
        space="logits",
    ),
    LossRow(
        name="dlr",
        target="trustbound.metrics.losses:dlr",
        line="difference of logits ratio: blind to the scale and shift of the logits",
        space="logits",
    ),
    LossRow(
        name="absolute-error",
        target="trustbound.metrics.losses:absolute_error",
        line="mean absolute error of a regression",
        space="errors",
    ),
    LossRow(
        name="squared-error",
        target="trustbound.metrics.losses:squared_error",
        line="mean squared error of a regression",
        space="errors",
    ),
    LossRow(
        name="f1",
        target="trustbound.metrics.losses:f1",
        line="Carlini-Wagner f1: log 2 minus the target's cross-entropy",
        space="log-probabilities",
    ),
    LossRow(
        name="f2",
        target="trustbound.metrics.losses:f2",
        line="Carlini-Wagner f2: hinge on the probability margin",
        space="probabilities",
    ),
    LossRow(
        name="f3",
        target="trustbound.metrics.losses:f3",
        line="Carlini-Wagner f3: softplus of the probability margin",
        space="probabilities",
    ),
    LossRow(
        name="f4",
        target="trustbound.metrics.losses:f4",
        line="Carlini-Wagner f4: hinge on target probability 1/2",
        space="probabilities",
    ),
    LossRow(
        name="f5",
        target="trustbound.metrics.losses:f5",
        line="Carlini-Wagner f5: log of twice the target probability (the same function as f1)",
        space="log-probabilities",
    ),
    LossRow(
        name="f6",
        target="trustbound.metrics.losses:f6",
        line="Carlini-Wagner f6: hinge on the logit margin",
        space="logits",
    ),
    LossRow(
        name="f7",
        target="trustbound.metrics.losses:f7",
        line="Carlini-Wagner f7: softplus of the logit margin",
        space="logits",
    ),
)
