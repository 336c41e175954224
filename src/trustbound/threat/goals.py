"""What counts as success, and what to climb towards it.

The goal says what success is; the attack names the surrogate it climbs. Ties are neither: success needs a
margin strictly below zero.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from trustbound.errors import InputError
from trustbound.metrics.decision import answered
from trustbound.metrics.margin import margin as true_margin
from trustbound.metrics.margin import targeted_margin


@dataclass(frozen=True, eq=False)
class Objective:
    """A goal bound to examples.

    Shapes      labels, targets (B,) int64 (targets None when the goal names none); outputs (B, C).
    """

    goal: Goal
    labels: Tensor
    targets: Tensor | None = None

    def margin(self, outputs: Tensor) -> Tensor:
        """How far each example is from the goal, (B,): reached when below zero.

        Outputs that are no answer (`measure.decision.answered`: NaN, +inf) make the label lost and no class reached:
        minus infinity where the goal is to take the true answer away, infinity where it wants a class.
        """
        wide = outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
        margin = self.goal.margin(wide, self.labels, self.targets)
        if not isinstance(margin, Tensor) or margin.shape != outputs.shape[:1] or not margin.is_floating_point():
            came = f"{tuple(margin.shape)} {margin.dtype}" if isinstance(margin, Tensor) else type(margin).__name__
            raise InputError(
                f"a goal's margin must be a floating tensor with one number for each example, here ({len(outputs)},), "
                f"below zero where the goal is reached; {self.goal.name} gave {came}"
            )
        if math.isfinite(float(margin.detach().sum())):  # a finite margin comes of an answer alone
            return margin
        otherwise = -math.inf if self.goal.silenced else math.inf
        return margin.masked_fill(~answered(wide), otherwise)

    def reached(self, outputs: Tensor) -> Tensor:
        """Which examples reach the goal, (B,) bool."""
        return self.margin(outputs) < 0

    def concerned(self) -> Tensor:
        """Which examples the goal can be reached for at all, (B,) bool."""
        return self.goal.concerns(self.labels)

    @property
    def has_surrogates(self) -> bool:
        """Whether the named losses of labels and targets lead to the goal."""
        return getattr(self.goal, "has_surrogates", False)

    def select(self, rows: Tensor | slice) -> Objective:
        """The same goal for some of the examples."""
        return Objective(self.goal, self.labels[rows], None if self.targets is None else self.targets[rows])

    def towards(self, targets: Tensor) -> Objective:
        """The same goal, with surrogates that climb towards given classes (B,)."""
        return Objective(self.goal, self.labels, targets)


class Goal(Protocol):
    """What success means: text form, which examples it concerns, how far an output is from it.

    silenced        whether a model that gives no answer at all has reached it.
    has_surrogates  (optional) whether the named losses of labels and targets lead to it; else attacks climb its margin.
    decided         whether decisions alone, without scores, show that it is reached.
    """

    silenced: ClassVar[bool]
    decided: ClassVar[bool]

    @property
    def name(self) -> str:
        """Kebab-case name."""

    def bind(self, labels: Tensor, classes: int) -> Objective:
        """The goal for a batch of labels (B,)."""

    def concerns(self, labels: Tensor) -> Tensor:
        """Which examples the goal can be reached for at all, (B,) bool."""

    def margin(self, outputs: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        """Below zero when reached, (B,)."""


@dataclass(frozen=True)
class Misclassify:
    """Any class but the true one.

    >>> goal = Misclassify().bind(torch.tensor([0]), classes=3)
    >>> goal.reached(torch.tensor([[1.0, 2.0, 0.0]]))
    tensor([True])
    """

    name = "misclassify"
    silenced: ClassVar[bool] = True
    has_surrogates: ClassVar[bool] = True
    decided: ClassVar[bool] = True

    def __str__(self) -> str:
        return self.name

    def bind(self, labels: Tensor, classes: int) -> Objective:
        """Every example is concerned."""
        return Objective(self, labels)

    def concerns(self, labels: Tensor) -> Tensor:
        """All."""
        return torch.ones(len(labels), dtype=torch.bool, device=labels.device)

    def margin(self, outputs: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        """True logit minus the best other."""
        return true_margin(outputs, labels)


@dataclass(frozen=True)
class Target:
    """One wanted class, whatever the true one.

    >>> Target(2).bind(torch.tensor([0]), classes=3).targets
    tensor([2])
    """

    target: int
    name = "target"
    silenced: ClassVar[bool] = False
    has_surrogates: ClassVar[bool] = True
    decided: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"target:{self.target}"

    def bind(self, labels: Tensor, classes: int) -> Objective:
        """Refuse a target that the model does not have."""
        if not 0 <= self.target < classes:
            raise InputError(f"the target must be a class 0..{classes - 1}; got {self.target}")
        return Objective(self, labels, torch.full_like(labels, self.target))

    def concerns(self, labels: Tensor) -> Tensor:
        """Those that are not of the wanted class already."""
        return labels != self.target

    def margin(self, outputs: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        """Best other logit minus the target's."""
        return -targeted_margin(outputs, torch.full_like(labels, self.target))


@dataclass(frozen=True)
class SourceTarget:
    """Examples of one class taken for one other class; examples of other classes are not concerned."""

    source: int
    target: int
    name = "source-target"
    silenced: ClassVar[bool] = False
    has_surrogates: ClassVar[bool] = True
    decided: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"source:{self.source},target:{self.target}"

    def bind(self, labels: Tensor, classes: int) -> Objective:
        """Refuse classes that the model does not have, or that are the same."""
        if not (0 <= self.source < classes and 0 <= self.target < classes and self.source != self.target):
            raise InputError(
                f"source and target must be two different classes 0..{classes - 1}; got {self.source} and {self.target}"
            )
        return Objective(self, labels, torch.full_like(labels, self.target))

    def concerns(self, labels: Tensor) -> Tensor:
        """Those of the one class."""
        return labels == self.source

    def margin(self, outputs: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        """Best other logit minus the target's; infinite for examples that are not concerned."""
        distance = -targeted_margin(outputs, torch.full_like(labels, self.target))
        return distance.masked_fill(labels != self.source, math.inf)


@dataclass(frozen=True)
class ReduceConfidence:
    """The true class's probability falls below a value.

    >>> goal = ReduceConfidence(0.5).bind(torch.tensor([0]), classes=2)
    >>> goal.reached(torch.tensor([[0.0, 1.0]]))
    tensor([True])
    """

    below: float
    name = "reduce-confidence"
    silenced: ClassVar[bool] = True
    has_surrogates: ClassVar[bool] = True
    decided: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Probabilities only."""
        object.__setattr__(self, "below", float(self.below))
        if not 0.0 < self.below <= 1.0:
            raise InputError(f"the confidence to fall below must lie in (0, 1]; got {self.below}")

    def __str__(self) -> str:
        return f"reduce-confidence:{self.below!r}"

    def bind(self, labels: Tensor, classes: int) -> Objective:
        """Every example is concerned."""
        return Objective(self, labels)

    def concerns(self, labels: Tensor) -> Tensor:
        """All."""
        return torch.ones_like(labels, dtype=torch.bool)

    def margin(self, outputs: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        """Log-probability of the true class, in float64, minus the log of the wanted confidence."""
        return outputs.double().log_softmax(dim=1).gather(1, labels[:, None])[:, 0] - math.log(self.below)


#: A decimal without sign, in ASCII digits; neither underscores nor inf nor nan.
DECIMAL = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_TARGET = re.compile("target:([0-9]{1,9})")
_SOURCE = re.compile("source:([0-9]{1,9}),target:([0-9]{1,9})")
_BELOW = re.compile(f"reduce-confidence:({DECIMAL})")


def parse_goal(text: str) -> Goal:
    """Read a goal's text form.

    >>> str(parse_goal("source:3,target:5"))
    'source:3,target:5'
    """
    if text == "misclassify":
        return Misclassify()
    if match := _TARGET.fullmatch(text):
        return Target(int(match[1]))
    if match := _SOURCE.fullmatch(text):
        return SourceTarget(int(match[1]), int(match[2]))
    if match := _BELOW.fullmatch(text):
        return ReduceConfidence(float(match[1]))
    raise InputError(
        f"a goal reads misclassify, target:CLASS, source:CLASS,target:CLASS or reduce-confidence:BELOW; got {text!r}"
    )
