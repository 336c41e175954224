"""What outputs mean: which of them are answers, which answers are right, and how far one is from being wrong.

Importing this package stays cheap: torch is imported when one of the names below is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustbound.lazy import lazy

if TYPE_CHECKING:
    from trustbound.tasks.classification import Classification
    from trustbound.tasks.naming import parse_task
    from trustbound.tasks.regression import Regression
    from trustbound.tasks.segmentation import Segmentation
    from trustbound.tasks.task import Task
    from trustbound.tasks.view import View, right_answers

__all__ = ["Classification", "Regression", "Segmentation", "Task", "View", "parse_task", "right_answers"]

_HOMES = {
    "Classification": "classification",
    "Regression": "regression",
    "Segmentation": "segmentation",
    "Task": "task",
    "View": "view",
    "parse_task": "naming",
    "right_answers": "view",
}


__getattr__ = lazy(__name__, _HOMES)
