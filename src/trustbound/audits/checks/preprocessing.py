"""Is the model asked as it was trained: does another usual preprocessing make it much more accurate?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trustbound.audits.checks.context import Before
from trustbound.audits.checks.finding import EvaluationCheck, Finding, idle
from trustbound.audits.checks.probe import answers
from trustbound.audits.checks.significance import LEVEL, excess_by_chance, holm
from trustbound.errors import ModelError
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost

#: A preprocessing that was forgotten is right more often than none, where they differ, by more than this factor.
ODDS = 2.0

_ENOUGH = 4000  # rows that tell the mean and deviation of a column
_AS_STORED = "inputs as they are stored, without mean and std"

_USUAL: dict[int, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    3: {
        "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "CIFAR-10's mean and std": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "mean 0.5 and std 0.5": ((0.5,), (0.5,)),
    },
    1: {
        "MNIST's mean and std": ((0.1307,), (0.3081,)),
        "mean 0.5 and std 0.5": ((0.5,), (0.5,)),
    },
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing(EvaluationCheck[Before]):
    """Does the model get much better when its inputs are normalised, scaled or ordered in another usual way?

    Measures    points of accuracy that the best other way gains, on examples of which each is asked every way; 0 where
                none is better beyond chance (exact McNemar, corrected for all that were tried). FAIL needs a way that
                is right more than twice as often as the given one on the examples where they differ.
    Tried       pictures: the usual means and deviations, none where some were given, the other scale (0 to 255 or 0 to
                1), channels in the order BGR, of grey ones light and dark exchanged. Rows: columns of mean 0 and
                deviation 1. A way that the model refuses is left out.
    Cost        1 forward per example and way, 7 at most.

    >>> Preprocessing().examples
    64
    """

    name: ClassVar[str] = "preprocessing"
    classes: ClassVar[bool] = True

    examples: int = 64

    def measure(self, context: Before) -> Finding:
        """Ask the same examples in every way."""
        sample = context.sample(self.examples)
        ways = other_ways(context.model, context.sample(_ENOUGH).inputs, sample.inputs)
        if not ways:
            return idle("neither pictures of one or three channels nor rows: no usual preprocessing is known")
        labels = sample.labels.cpu()
        given, cost = _right(sample, sample.inputs, labels)
        tried: list[tuple[str, Tensor]] = []
        for name, prepared in ways.items():
            try:
                right, spent = _right(sample, prepared, labels)
            except ModelError:  # it refuses inputs outside of its own range, so it was not trained on them
                continue
            tried.append((name, right))
            cost = cost + spent
        total = len(labels)
        counts = [(int((right & ~given).sum()), int((given & ~right).sum())) for _, right in tried]
        chances = holm([excess_by_chance(gained, lost) for gained, lost in counts])
        strong = holm([excess_by_chance(gained, lost, ODDS) for gained, lost in counts])
        best = max(range(len(tried)), key=lambda place: counts[place][0] - counts[place][1], default=None)
        said = f"accuracy {float(given.double().mean()):.1%} as given on {total} example{'s' * (total != 1)}"
        if best is None or chances[best] >= LEVEL or counts[best][0] <= counts[best][1]:
            return Finding(
                value=0.0,
                finding=f"{said}; no better beyond chance in {len(tried)} other usual "
                f"way{'s' * (len(tried) != 1)} to prepare inputs",
                evidence={"tried": [name for name, _ in tried]},
                cost=cost,
            )
        alike = [place for place, (_, right) in enumerate(tried) if _as_good(right, tried[best][1])]
        best = next((place for place in alike if tried[place][0] == _AS_STORED), best)
        name, right = tried[best]
        gained, lost = counts[best]
        others = " or ".join(tried[place][0] for place in alike if place != best)
        return Finding(
            value=(gained - lost) / total,
            finding=f"{said}; it would be {float(right.double().mean()):.1%} with {name} ({gained} right only so, "
            f"{lost} only as given){f'; {others} would do as well' if others else ''}",
            advice="the module seems to normalise by itself: leave out mean and std."
            if name == _AS_STORED
            else f"if the model was trained with {name}, let it be part of the model: mean and std are given to wrap "
            "or load_model (--mean, --std), anything else belongs into the module's forward. Epsilon stays in the "
            "units of the inputs as they are stored.",
            evidence={"way": name, "tried": [one for one, _ in tried], "gained": gained, "lost": lost},
            cost=cost,
            at_most="FAIL" if strong[best] < LEVEL else "WARN",
        )


def other_ways(model: Model, data: Tensor, inputs: Tensor) -> dict[str, Tensor]:
    """Other usual ways to prepare inputs: name → what to hand to the model, so that its module sees them prepared so.

    Parameters
        data    examples (N, *F) from which columns have their mean and deviation.
        inputs  (B, *F) of them, as they are stored.
    """
    undo = _undo(model)
    declared = model.mean is not None or model.std is not None
    ways = {_AS_STORED: undo(inputs)} if declared else {}
    if inputs.dim() == 2:
        variance, mean = torch.var_mean(data.float(), 0, correction=0)
        scaled = (inputs.float() - mean) / torch.where(variance > 0, variance.sqrt(), 1.0)
        return {**ways, "columns of mean 0 and deviation 1": undo(scaled.to(inputs.dtype))}
    channels = inputs.shape[1] if inputs.dim() == 4 else 0
    if channels not in _USUAL:
        return {}
    if np.ndim(model.box.low) == 0 == np.ndim(model.box.high) and float(model.box.low) == 0.0 < float(model.box.high):
        high = float(model.box.high)
        unit = inputs / high
        for name, (usual_mean, usual_std) in _USUAL[channels].items():
            ways[name] = undo((unit - _channels(usual_mean, unit)) / _channels(usual_std, unit))
        ways["values from 0 to 255" if high == 1.0 else "values from 0 to 1"] = undo(
            255 * unit if high == 1.0 else unit
        )
        if channels == 1:
            ways["light and dark exchanged"] = high - inputs
    if channels == 3:
        ways["channels in the order BGR"] = inputs.flip(1)
    return ways


def _undo(model: Model) -> Callable[[Tensor], Tensor]:
    """What makes the module see just these values, whatever mean and deviation its inputs go through."""
    mean, std = model.mean, model.std

    def undone(values: Tensor) -> Tensor:
        if std is not None:
            values = values * _channels(std.to(values), values)
        return values if mean is None else values + _channels(mean.to(values), values)

    return undone


def _channels(numbers: Tensor | tuple[float, ...], values: Tensor) -> Tensor:
    """Numbers of the channels against (B, C, …)."""
    return torch.as_tensor(numbers).to(values).reshape(-1, *(1,) * (values.dim() - 2))


def _as_good(right: Tensor, best: Tensor) -> bool:
    """Whether chance explains what the best way answers rightly and this one does not."""
    return excess_by_chance(int((best & ~right).sum()), int((right & ~best).sum())) >= LEVEL


def _right(context: Before, prepared: Tensor, labels: Tensor) -> tuple[Tensor, Cost]:
    """Which examples are answered rightly, (B,) bool, and what asking cost."""
    outputs, cost = answers(context, prepared)
    return outputs.argmax(dim=1).cpu() == labels, cost
