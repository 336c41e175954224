"""The surrogate losses by name, without importing torch: what the command line and the documents may list."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """One loss that an attack may climb: its name, where it lives, and one line about it.

    >>> LOSS_ROWS[0].name
    'ce'
    """

    name: str
    reference: str
    summary: str
    space: str


LOSS_ROWS: tuple[LossRow, ...] = (
    LossRow(
        name="ce",
        reference="trustbound.measure.losses:ce",
        summary="cross-entropy: the training loss itself",
        space="log-probabilities",
    ),
    LossRow(
        name="margin",
        reference="trustbound.measure.losses:margin",
        summary="best other logit minus the true one",
        space="logits",
    ),
    LossRow(
        name="probability-margin",
        reference="trustbound.measure.losses:probability_margin",
        summary="best other probability minus the true one",
        space="probabilities",
    ),
    LossRow(
        name="soft-margin",
        reference="trustbound.measure.losses:soft_margin",
        summary="log-odds of a wrong answer: cross-entropy's direction, without its saturation",
        space="logits",
    ),
    LossRow(
        name="dlr",
        reference="trustbound.measure.losses:dlr",
        summary="difference of logits ratio: blind to the scale and shift of the logits",
        space="logits",
    ),
    LossRow(
        name="f1",
        reference="trustbound.measure.losses:f1",
        summary="Carlini-Wagner f1: log 2 minus the target's cross-entropy",
        space="log-probabilities",
    ),
    LossRow(
        name="f2",
        reference="trustbound.measure.losses:f2",
        summary="Carlini-Wagner f2: hinge on the probability margin",
        space="probabilities",
    ),
    LossRow(
        name="f3",
        reference="trustbound.measure.losses:f3",
        summary="Carlini-Wagner f3: softplus of the probability margin",
        space="probabilities",
    ),
    LossRow(
        name="f4",
        reference="trustbound.measure.losses:f4",
        summary="Carlini-Wagner f4: hinge on target probability 1/2",
        space="probabilities",
    ),
    LossRow(
        name="f5",
        reference="trustbound.measure.losses:f5",
        summary="Carlini-Wagner f5: log of twice the target probability (the same function as f1)",
        space="log-probabilities",
    ),
    LossRow(
        name="f6",
        reference="trustbound.measure.losses:f6",
        summary="Carlini-Wagner f6: hinge on the logit margin",
        space="logits",
    ),
    LossRow(
        name="f7",
        reference="trustbound.measure.losses:f7",
        summary="Carlini-Wagner f7: softplus of the logit margin",
        space="logits",
    ),
)
