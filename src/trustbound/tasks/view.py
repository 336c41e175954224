"""Outputs of any shape as an attack sees them: scores of answers, of which the right one must stay the largest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.tasks.task import Task

Margin = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class View:
    """The scores of labelled examples' outputs.

    Parameters
        labels      (N, *L), of every example.
        margin      (outputs, labels) → (R,), in place of the task's own: below zero where a goal is reached.

    >>> from trustbound.tasks.regression import Regression
    >>> view = View(Regression(tolerance=2.0), torch.tensor([10.0, 20.0]))
    >>> view(torch.tensor([[25.0]]), torch.tensor([1])).tolist()  # 5 above, where 2 are allowed
    [[0.0, 3.0, -7.0]]
    """

    task: Task
    labels: Tensor
    margin: Margin | None = None

    def __call__(self, outputs: Tensor, owner: Tensor) -> Tensor:
        """Scores (R, M) of outputs (R, *O), row i of example owner[i]."""
        labels = self.labels[owner.to(self.labels.device)].to(outputs.device)
        if self.margin is None:
            return self.task.scores(outputs, labels)
        found = self.margin(outputs, labels)
        return torch.stack((found, torch.zeros_like(found)), dim=1)

    def rounding_error(self, outputs: Tensor, owner: Tensor, precision: torch.dtype | None = None) -> Tensor:
        """Below which size a margin of outputs (R, *O) is a tie, (R,) float64.

        A margin of its own has a unit of its own: what rounding may move each output by, times how fast the margin
        follows it. Where it has no slope, the outputs' own unit is all that is known.
        """
        labels = self.labels[owner.to(self.labels.device)].to(outputs.device)
        error = self.task.rounding_error(outputs, labels, precision)
        if self.margin is None:
            return error
        with torch.enable_grad():
            leaf = outputs.detach().clone().requires_grad_(True)
            found = self.margin(leaf, labels)
            if not found.requires_grad:
                return error
            (slope,) = torch.autograd.grad(found.sum(), leaf)
        return error * slope.double().abs().nan_to_num(nan=math.inf).flatten(1).sum(1)

    def select(self, rows: Tensor | slice) -> View:
        """The same for some of the examples."""
        return View(self.task, self.labels[rows], self.margin)


def right_answers(task: Task, labels: Tensor) -> tuple[View | None, Tensor]:
    """The view of labelled examples, None where outputs are scores already; and which answer is right, (N,) int64.

    >>> from trustbound.tasks.classification import CLASSIFICATION
    >>> right_answers(CLASSIFICATION, torch.tensor([2, 0]))
    (None, tensor([2, 0]))
    """
    return (None, labels) if task.plain else (View(task, labels), task.right(labels))


def seen(task: Task, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (N, M) that outputs (N, *O) of labelled examples come to, and which of them is right, (N,) int64."""
    view, right = right_answers(task, labels)
    return (outputs if view is None else view(outputs, torch.arange(len(outputs), device=outputs.device))), right
