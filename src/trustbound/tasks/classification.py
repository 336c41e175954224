"""One of C classes: outputs are logits, and the largest is the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustbound.errors import InputError
from trustbound.metrics.decision import answered
from trustbound.metrics.margin import margin_rows, rounding_error
from trustbound.tasks.task import Requirement, Task


@dataclass(frozen=True)
class Classification(Task):
    """The class with the largest logit is the answer; it is right where it is the label.

    Shapes      outputs (B, C), C ≥ 2; labels (B,) int64.
    Margin      true logit minus the best other.

    >>> str(Classification())
    'classification'
    >>> Classification().scores(torch.tensor([[1.0, 2.0]]), torch.tensor([1]))
    tensor([[1., 2.]])
    """

    name: ClassVar[str] = "classification"
    calibrated: ClassVar[bool] = True
    plain: ClassVar[bool] = True
    decided: ClassVar[bool] = True
    returns: ClassVar[str] = "logits (B, C), C ≥ 2"
    called: ClassVar[str] = "logits"

    def fitted(self, outputs: Any) -> Tensor | None:
        """A floating (B, C) tensor with two classes at least."""
        if isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] >= 2 and outputs.is_floating_point():
            return outputs
        return None

    def advice(self, outputs: Any) -> str:
        """Where the logits may be, and the task that takes what came."""
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else ()
        hint = other = ""
        if len(shape) in (1, 2) and math.prod(shape[1:]) == 1:  # one logit of two classes, or no class at all
            hint = ", here lambda one: torch.stack((-one.flatten(), one.flatten()), 1)"
            other = " A model that predicts a number is a regression: task='regression:tolerance=…'."
        elif len(shape) > 2 and shape[1] >= 2 and math.prod(shape[2:]) == 1:
            hint = ", here lambda maps: maps.flatten(1)"
        elif len(shape) == 4 and shape[1] >= 2:
            other = " A model that gives each pixel a class is a segmentation: task='segmentation:min_accuracy=…'."
        return f"Pass `output=` to wrap or load_model: a position, a key, an attribute name or a callable{hint}.{other}"

    def checked_labels(self, labels: Tensor) -> Tensor:
        """Whole numbers, one for each example, 0 or above."""
        if labels.dim() != 1:
            hint = "For one-hot rows pass labels.argmax(1)." if labels.dim() == 2 else "Pass one number each."
            raise InputError(f"`labels` must have shape (B,); got shape {tuple(labels.shape)}. {hint}")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise InputError(
                f"`labels` must be whole class numbers; got {labels.dtype}. Convert them with labels.long(), or say "
                "task='regression' where they are numbers to predict."
            )
        labels = labels.to(torch.int64)
        if labels.numel() and int(labels.min()) < 0:
            row = int((labels < 0).nonzero()[0])
            raise InputError(f"`labels` must be 0 or above; got {int(labels[row])} at row {row}. Count from 0.")
        return labels

    def check_fit(self, labels: Tensor, shape: tuple[int, ...]) -> None:
        """Refuse classes that the model does not have."""
        if int(labels.max()) >= shape[0]:
            raise InputError(
                f"`labels` must be classes 0..{shape[0] - 1}, as many as the model's outputs; got {int(labels.max())}"
            )

    def scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The logits themselves."""
        return outputs

    def right(self, labels: Tensor) -> Tensor:
        """The labels themselves."""
        return labels

    def rounding_error(self, outputs: Tensor, labels: Tensor, precision: torch.dtype | None = None) -> Tensor:
        """Four eps of the largest logit."""
        return rounding_error(outputs, precision)

    def decisions(self, outputs: Tensor) -> Tensor:
        """One-hot rows; NaN where there is no answer."""
        chosen = torch.nn.functional.one_hot(outputs.argmax(dim=1), outputs.shape[1]).to(outputs.dtype)
        return chosen.masked_fill(~answered(outputs).unsqueeze(1), torch.nan)

    def requirement(self, labels: Tensor, width: int, targets: Tensor | None = None) -> Requirement:
        """Every difference between the true logit and another."""
        return Requirement(margin_rows(labels, width, targets))


#: What a model does unless another task is named.
CLASSIFICATION = Classification()
