"""The examples: their range, their labels, their number, and whether the model has seen them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trustbound.audits.checks.context import After, Before
from trustbound.audits.checks.finding import Finding, HealthCheck
from trustbound.audits.checks.lattice import levels_of
from trustbound.audits.checks.probe import answers
from trustbound.data.duplicates import overlap
from trustbound.data.labelled import LabelledSet
from trustbound.measure.inside import outside
from trustbound.record.cost import Cost
from trustbound.record.interval import binomial_interval


@dataclass(frozen=True, kw_only=True)
class InputRange(HealthCheck[Before]):
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
class LabelOrder(HealthCheck[Before]):
    """Would another order of the classes fit the labels better?

    Measures    accuracy under the best one-to-one assignment of the model's classes to the labels (Hungarian
                method on the confusion matrix) minus the accuracy as given. At least a WARN when no order
                helps and the accuracy is what naming the commonest class alone would reach by chance (5 %).
    Cost        1 forward per example, none when the evidence holds the clean outputs.
    Reference   Kuhn, The Hungarian method for the assignment problem, 1955 (scipy's implementation).

    >>> LabelOrder().examples
    1000
    """

    name: ClassVar[str] = "label-order"

    examples: int = 1000

    def measure(self, context: Before) -> Finding:
        """Assign and compare."""
        outputs = context.evidence.clean_outputs if isinstance(context, After) else None
        labels, cost = context.labels, Cost()
        if outputs is None:
            sample = context.sample(self.examples)
            outputs, cost = answers(sample, sample.inputs)
            labels = sample.labels
        classes = max(outputs.shape[1], int(labels.max()) + 1)
        given, best, moved = best_order(outputs.argmax(dim=1).cpu(), labels.cpu(), classes)
        swaps = ", ".join(f"{label} ← {said}" for label, said in moved[:6])
        chance = best - given <= 0.1 and not _beats_the_commonest(given, labels)
        return Finding(
            value=best - given,
            finding=f"accuracy {given:.1%} as given, {best:.1%} in the best order of classes"
            + (f" (label ← class: {swaps}{' …' if len(moved) > 6 else ''})" if best - given > 0.1 else "")
            + ("; no better than naming the commonest class: model and data may not belong together" if chance else ""),
            advice="the data counts its classes in another order than the model (often alphabetical folders): "
            "pass the model's class index, or reorder the labels.",
            evidence={"accuracy": given, "best": best, "moved": moved},
            cost=cost,
            at_least="WARN" if chance else "PASS",
        )


def _beats_the_commonest(accuracy: float, labels: Tensor) -> bool:
    """Whether so many correct answers are no chance for who always names the commonest label (exact, 5 %)."""
    from scipy.stats import binom

    correct, commonest = round(accuracy * len(labels)), float(labels.bincount().max()) / len(labels)
    return commonest == 1.0 or bool(binom.sf(correct - 1, len(labels), commonest) < 0.05)


def best_order(predictions: Tensor, labels: Tensor, classes: int) -> tuple[float, float, list[tuple[int, int]]]:
    """Accuracy as given, in the best order of classes, and the (label, class) pairs that it moves.

    >>> best_order(torch.tensor([1, 0, 1]), torch.tensor([0, 1, 0]), 2)
    (0.0, 1.0, [(0, 1), (1, 0)])
    """
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels.numpy(), predictions.numpy()), 1)
    rows, columns = linear_sum_assignment(-confusion)
    total = max(len(labels), 1)
    moved = [
        (int(row), int(column))
        for row, column in zip(rows, columns, strict=True)
        if row != column and confusion[row, column]
    ]
    return float(np.trace(confusion)) / total, float(confusion[rows, columns].sum()) / total, moved


@dataclass(frozen=True, kw_only=True)
class SampleSize(HealthCheck[After]):
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
            wrong = known.clean_outputs.argmax(dim=1).cpu() != context.labels.cpu()
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
class TrainTestOverlap(HealthCheck[Before]):
    """Which examples occur, value for value, in the training set?

    Cost        no model call; one digest per example of both sets.

    >>> TrainTestOverlap.name
    'train-test-overlap'
    """

    name: ClassVar[str] = "train-test-overlap"

    def measure(self, context: Before) -> Finding:
        """Compare digests."""
        if context.training is None:
            return Finding(value=None, finding="no training set was given")
        test = LabelledSet(context.inputs, context.labels, box=context.model.box)
        rows = overlap(context.training, test).tolist()
        return Finding(
            value=len(rows) / len(test),
            finding=f"{len(rows)} of {len(test)} examples occur in the training set of {len(context.training)}",
            advice="drop these examples: what was learnt by heart says nothing about new inputs.",
            evidence={"rows": rows},
        )
