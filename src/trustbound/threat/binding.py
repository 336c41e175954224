"""A goal bound to labelled examples of any task: what an attack is to reach, and how it sees the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from trustbound.errors import InputError, UnsupportedError
from trustbound.tasks.task import Task
from trustbound.tasks.view import View
from trustbound.threat.goals import Goal, Misclassify, Objective

#: In place of infinity among scores, which hold none.
_FAR = 1e300


def check_task(goal: Goal, task: Task, *, decisions: bool) -> None:
    """Refuse a goal, or an adversary who sees decisions alone, that a task has no meaning for.

    Raises      UnsupportedError.

    >>> from trustbound.tasks.regression import Regression
    >>> from trustbound.threat.goals import Target
    >>> check_task(Target(3), Regression(tolerance=1.0), decisions=False)
    Traceback (most recent call last):
    trustbound.errors.UnsupportedError: the goal target:3 names classes, of which regression has none; ...
    """
    if decisions and not task.decided:
        raise UnsupportedError(
            f"{task.name} has no decisions apart from its outputs, which are all that it says. Give access=scores."
        )
    if not task.plain and getattr(goal, "has_surrogates", False) and not isinstance(goal, Misclassify):
        what = "classes" if "target" in goal.name else "a confidence"
        raise UnsupportedError(
            f"the goal {goal} names {what}, of which {task.name} has none; the goal misclassify is to make an answer "
            "wrong, whatever the task."
        )


def bind(goal: Goal, task: Task, labels: Tensor, width: int) -> tuple[Objective, View | None]:
    """The goal for labels (B, *L) of a task, and the view of the outputs under which it is to be reached.

    Of classification the objective is the goal's own and the view is None: logits are seen as they are. Of another
    task the view turns outputs into scores, and the objective is that the first of them is not the largest: the task's
    own margin where the goal is `misclassify`, else the margin that the goal gives for outputs and labels.

    Parameters
        width   outputs of the model, the classes of a classification.

    >>> import torch
    >>> from trustbound.tasks.regression import Regression
    >>> objective, view = bind(Misclassify(), Regression(tolerance=2.0), torch.tensor([10.0]), 1)
    >>> objective.margin(view(torch.tensor([[13.0]]), torch.tensor([0]))).tolist()
    [-1.0]
    """
    if task.plain:
        return goal.bind(labels, width), None
    right = task.right(labels)
    if isinstance(goal, Misclassify):
        return goal.bind(right, width), View(task, labels)

    _check_concerns(goal, labels)

    def margin(outputs: Tensor, told: Tensor) -> Tensor:
        try:
            found = goal.margin(outputs, told, None)
        except Exception as error:  # whatever the user's code raises
            raise InputError(
                f"the goal {goal.name} must give a margin for outputs {tuple(outputs.shape)} and labels "
                f"{tuple(told.shape)}; it raised {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, Tensor) or found.shape != outputs.shape[:1] or not found.is_floating_point():
            came = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"a goal's margin must be a floating tensor with one number for each example, here ({len(outputs)},), "
                f"below zero where the goal is reached; {goal.name} gave {came}"
            )
        known = found.double().nan_to_num(nan=-_FAR if goal.silenced else _FAR, posinf=_FAR, neginf=-_FAR)
        return known.masked_fill(~goal.concerns(told).to(found.device), _FAR)

    return Misclassify().bind(right, width), View(task, labels, margin)


def _check_concerns(goal: Goal, labels: Tensor) -> None:
    found = goal.concerns(labels)
    if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape != labels.shape[:1]:
        came = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"a goal must say of each example whether it concerns it, a bool tensor ({len(labels)},); "
            f"{goal.name} gave {came}"
        )
