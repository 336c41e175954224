"""The examples: their range, their labels, their number, and whether the model has seen them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trustbound.audits.checks.context import After, Before
from trustbound.audits.checks.finding import EvaluationCheck, Finding, idle
from trustbound.audits.checks.label_order import better_orders
from trustbound.audits.checks.lattice import levels_of
from trustbound.audits.checks.probe import answers
from trustbound.audits.checks.significance import LEVEL, severest
from trustbound.data.labelled import LabelledSet
from trustbound.data.train_test_overlap import overlap
from trustbound.metrics.in_box import outside
from trustbound.record.binomial import binomial_interval
from trustbound.record.cost import Cost


@dataclass(frozen=True, kw_only=True)
class InputRange(EvaluationCheck[Before]):
    """Do the inputs fill the box they are said to lie in?

    Measures    share of values outside the box or not finite. At least a WARN: pictures with mean near 0 and
                deviation near 1 in a box that reaches below 0 (normalised outside the model), and values that
                use less than a fiftieth of the box (0 to 1 in a box of 0 to 255).
    Cost        no model call.

    >>> InputRange.name
    'input-range'
    """

    name: ClassVar[str] = "input-range"

    def measure(self, context: Before) -> Finding:
        """Range, moments, lattice."""
        inputs, box = context.inputs.detach(), context.model.box
        low = torch.as_tensor(box.low, dtype=inputs.dtype, device=inputs.device)
        high = torch.as_tensor(box.high, dtype=inputs.dtype, device=inputs.device)
        share = float(outside(inputs, box).double().mean())
        least, most = float(inputs.min()), float(inputs.max())
        mean, deviation = float(inputs.double().mean()), float(inputs.double().std(correction=0))
        floor, ceiling = float(low.min()), float(high.max())
        pictures = inputs.dim() == 4
        standard = least < 0 and abs(mean) < 0.35 and 0.6 < deviation < 1.5
        suspicion = ""
        if share > 0 and standard and floor >= 0:
            suspicion = "they look normalised (mean near 0, deviation near 1)"
        elif share > 0 and least >= 0 and 1.0 < most <= 255.0 and ceiling <= 1.0:
            suspicion = "they look like 8-bit values, 0 to 255"
        elif not share and pictures and standard and most > 1.0 and np.ndim(box.low) == 0:
            suspicion = "they look normalised (mean near 0, deviation near 1), so epsilon is in those units"
        elif not share and (most - least) < 0.02 * (ceiling - floor):
            suspicion = "they use less than a fiftieth of the box"
        lattice = levels_of(inputs, box) if share == 0 else None
        return Finding(
            value=share,
            finding=f"values [{least:.4g}, {most:.4g}] (mean {mean:.3g}, deviation {deviation:.3g}) in the box "
            f"[{floor:g}, {ceiling:g}]"
            + (f", {share:.1%} outside" if share else "")
            + (f"; {suspicion}" if suspicion else "")
            + (f"; all on the lattice k/{lattice}" if lattice else ""),
            advice="hand over inputs as they are stored, scaled to the box, and give mean and std to wrap or "
            "load_model: then epsilon has the unit that it is quoted in."
            if "normalised" in suspicion
            else "scale the inputs to the box, or pass the box that they have.",
            evidence={"low": least, "high": most, "mean": mean, "deviation": deviation, "lattice": lattice},
            at_least="WARN" if suspicion else "PASS",
        )


@dataclass(frozen=True, kw_only=True)
class LabelOrder(EvaluationCheck[Before]):
    """Would another order of the classes fit the labels better?

    Measures    points of accuracy that another order gains, on examples that did not choose it: the usual mistakes (off
                by one, reversed, numbers sorted as text) and what one half of the examples suggests, judged on the
                other half (see `label_order`). 0 where no order is better beyond chance, corrected for all that were
                tried. FAIL needs an order that is right more than twice as often as the given one on the classes that
                it moves: weak networks confuse classes, a wrong order exchanges them.
    Too little  where the same answers in any other order would be right as often (5 %), no order is
                confirmed, neither the given one: a WARN that says whether there were too few examples to tell. An
                accuracy beyond that confirms the given order as a whole; where single classes could not be told
                apart, the finding says so.
    Cost        1 forward per example, none when the evidence holds the clean outputs.

    >>> LabelOrder().examples
    4000
    """

    name: ClassVar[str] = "label-order"
    classes: ClassVar[bool] = True

    examples: int = 4000

    def measure(self, context: Before) -> Finding:
        """Try other orders."""
        outputs = context.evidence.clean_outputs if isinstance(context, After) else None
        labels, cost = context.labels, Cost()
        if outputs is None:
            sample = context.sample(self.examples)
            outputs, cost = answers(sample, sample.inputs)
            labels = sample.labels
        predictions, labels = outputs.argmax(dim=1).cpu(), labels.cpu()
        classes = max(outputs.shape[1], int(labels.max()) + 1)
        correct, total = int((predictions == labels).sum()), len(labels)
        orders = better_orders(predictions, labels, classes, context.generator())
        given = f"accuracy {correct / total:.1%} as given on {total} examples of {classes} classes"
        if orders:
            best = orders[0]
            pairs = ", ".join(f"{label} ← {said}" for label, said in best.moved[:6])
            return Finding(
                value=best.gain,
                finding=f"{given}; another order of classes ({best.name}) gains {best.gain:.1%} on {best.total} "
                f"examples that did not choose it: {best.gained} right in it only, {best.lost} as given only "
                f"(label ← class: {pairs}{' …' if len(best.moved) > 6 else ''})",
                advice="the data counts its classes in another order than the model (often alphabetical folders): "
                "pass the model's class index, or reorder the labels."
                if best.strong < LEVEL
                else "some classes are taken for each other more often than not: see whether the data counts them in "
                "another order than the model.",
                evidence={"accuracy": correct / total, "orders": [order.name for order in orders], "moved": best.moved},
                cost=cost,
                at_least="WARN",
                at_most="FAIL" if best.strong < LEVEL else "WARN",
            )
        chance = not _beats_chance(predictions, labels, context.generator())
        if not chance:
            said = "; no other order of classes fits better"
            if total < ENOUGH * classes:
                said += ", but there are too few examples to tell two classes that are exchanged"
        elif total < ENOUGH * classes:
            said = f"; {_CHANCE}, and too few examples to tell another order of classes"
        else:
            said = f"; {_CHANCE}: model and data may not belong together"
        return Finding(
            value=0.0,
            finding=given + said,
            advice="hand over more examples of each class, or see whether the labels are the model's own.",
            evidence={"accuracy": correct / total, "orders": [], "moved": ()},
            cost=cost,
            at_least="WARN" if chance else "PASS",
        )


_CHANCE = "no better than answers at random or the commonest class"

#: Examples of a class, on average, from which another order of the classes can be learnt and judged.
ENOUGH = 4


def _beats_chance(predictions: Tensor, labels: Tensor, generator: torch.Generator, draws: int = 999) -> bool:
    """Whether the same answers, given to the examples in any order, are seldom so often right (5 %).

    Who always names the commonest class does not. Where all labels are one and the same, any right answer shows that
    the label has its meaning.
    """
    correct = int((predictions == labels).sum())
    if int(labels.min()) == int(labels.max()):
        return correct > 0
    as_good = sum(
        int((predictions[torch.randperm(len(labels), generator=generator)] == labels).sum()) >= correct
        for _ in range(draws)
    )
    return (1 + as_good) / (1 + draws) < LEVEL


@dataclass(frozen=True, kw_only=True)
class SampleSize(EvaluationCheck[After]):
    """Is the exact interval of the unbroken share as narrow as the share is quoted?

    Measures    half the width of the Clopper-Pearson 95 % interval, divided by `precision`. Without evidence
                the worst share, one half, is assumed.
    Cost        no model call.

    >>> SampleSize().precision
    0.05
    """

    name: ClassVar[str] = "sample-size"

    precision: float = 0.05

    def measure(self, context: After) -> Finding:
        """One interval."""
        total, known = len(context), context.evidence
        unbroken = total // 2
        if known.broken is not None and known.clean_outputs is not None:
            wrong = known.clean_outputs.argmax(dim=1).cpu() != context.right.cpu()
            unbroken = int((~known.broken.cpu() & ~wrong).sum())
        low, high = binomial_interval(unbroken, total)
        half = (high - low) / 2
        needed = round(total * (half / self.precision) ** 2)
        return Finding(
            value=half / self.precision,
            finding=f"{unbroken} of {total}: the exact 95 % interval [{low:.1%}, {high:.1%}] is ±{half:.1%}, "
            f"for a claim to ±{self.precision:.1%}",
            advice=f"use about {needed} examples, or quote the interval and not the share.",
            evidence={"low": low, "high": high, "needed": needed},
        )


@dataclass(frozen=True, kw_only=True)
class TrainTestOverlap(EvaluationCheck[Before]):
    """Which examples occur, value for value, in the training set?

    Cost        no model call; one digest per example of both sets.

    >>> TrainTestOverlap.name
    'train-test-overlap'
    """

    name: ClassVar[str] = "train-test-overlap"

    def measure(self, context: Before) -> Finding:
        """Compare digests."""
        if context.training is None:
            return idle("no training set was given")
        test = LabelledSet(context.inputs, context.labels, box=context.model.box, task=context.model.task)
        rows = overlap(context.training, test).tolist()
        return Finding(
            value=len(rows) / len(test),
            finding=f"{len(rows)} of {len(test)} examples occur in the training set of {len(context.training)}",
            advice="drop these examples: what was learnt by heart says nothing about new inputs.",
            evidence={"rows": rows},
            at_most=severest(len(rows), len(test), share=0.02),
        )
