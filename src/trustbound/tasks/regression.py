"""Numbers to predict: right where every one lies within a tolerance of its target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustbound.errors import InputError
from trustbound.metrics.margin import rounding_error
from trustbound.tasks.task import Requirement, Task, real


@dataclass(frozen=True)
class Regression(Task):
    """A prediction is right where |prediction − target| ≤ tolerance, of K outputs each of them.

    Shapes      outputs (B,) or (B, K), K ≥ 1, handed on as (B, K); labels (B,) or (B, K), kept in float64.
    Margin      min over k of tolerance − |prediction_k − target_k|, in the outputs' unit: positive is right, negative
                is wrong. At exactly the tolerance the prediction is right, and the margin a tie.
    Scores      0, and for each output error − tolerance and −error − tolerance: 0 is the largest while every error is
                within the tolerance. In float64, whatever the outputs' precision, so that no subtraction rounds.
    Deviations  tolerances that are no positive finite number are refused: at 0 rounding alone would decide, at
                infinity every prediction would be right.

    >>> task = Regression(tolerance=2.0)
    >>> task.scores(torch.tensor([[25.0, 1.0]]), torch.tensor([[20.0, 1.5]])).tolist()
    [[0.0, 3.0, -7.0, -2.5, -1.5]]
    """

    tolerance: float | None = None

    name: ClassVar[str] = "regression"
    returns: ClassVar[str] = "numbers (B,) or (B, K)"

    def __post_init__(self) -> None:
        """Refuse tolerances under which nothing or everything would be right."""
        given = self.tolerance
        if given is None:
            return
        tolerance = real(given)
        if tolerance is None or not 0.0 < tolerance < math.inf:
            raise InputError(
                "`tolerance` must be a positive, finite number in the unit of the predictions, the largest error that "
                f"still counts as right; got {given!r}"
            )
        object.__setattr__(self, "tolerance", tolerance)

    def judging(self) -> Task:
        """Refused without a tolerance."""
        if self.tolerance is None:
            raise InputError(
                "a regression must say which error still counts as right; got no tolerance. Give it in the unit of the "
                "predictions: task='regression:tolerance=50'."
            )
        return self

    def fitted(self, outputs: Any) -> Tensor | None:
        """Floating numbers (B, K), or (B,) as (B, 1)."""
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.dim() not in (1, 2):
            return None
        if outputs.dim() == 2:
            return outputs if outputs.shape[1] else None
        return outputs.unsqueeze(1)

    def advice(self, outputs: Any) -> str:
        """Where the predictions may be."""
        return "Pass `output=` to wrap or load_model: a position, a key, an attribute name or a callable."

    def checked_labels(self, labels: Tensor) -> Tensor:
        """Finite numbers (B,) or (B, K), in float64."""
        if labels.dim() not in (1, 2) or (labels.dim() == 2 and not labels.shape[1]):
            raise InputError(
                f"`labels` of a regression must be targets (B,) or (B, K); got shape {tuple(labels.shape)}. Pass one "
                "number, or one row of numbers, for each example."
            )
        if labels.is_complex() or labels.dtype == torch.bool:
            raise InputError(f"`labels` of a regression must be real numbers; got {labels.dtype}. Convert them first.")
        kept = labels.to(torch.float64)
        bad = ~kept.isfinite()
        if bool(bad.any()):
            row = int(bad.reshape(len(kept), -1).any(1).nonzero()[0])
            raise InputError(
                f"`labels` of a regression must be finite; got {int(bad.sum())} NaN or infinite targets, the first in "
                f"row {row}. Drop or repair these examples."
            )
        return kept

    def check_fit(self, labels: Tensor, shape: tuple[int, ...]) -> None:
        """Refuse targets that are not as many as the predictions."""
        wanted = math.prod(labels.shape[1:])
        if wanted != shape[0]:
            raise InputError(
                f"a regression needs one target for each output; got {wanted} for {shape[0]} outputs of the model. "
                "Check that the data is the one the model was made for."
            )

    def scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Zero, then each error against the tolerance from above and from below: (B, 1 + 2 K) float64."""
        assert self.tolerance is not None
        error = self.errors(outputs, labels)
        # Exactly on the target both sides pull alike, and a smooth loss would have no slope: from above counts more.
        below = torch.where(error == 0, 0.999 * -error, -error)
        sides = torch.stack((error, below), dim=2).flatten(1) - self.tolerance
        # Zero, unless nothing can be said of the outputs: NaN spreads by itself.
        return torch.cat((torch.zeros_like(sides[:, :1]), sides), dim=1)

    @staticmethod
    def errors(outputs: Tensor, labels: Tensor) -> Tensor:
        """Prediction minus target, (B, K) float64."""
        return outputs.double() - labels.reshape(len(labels), -1).double()

    def rounding_error(self, outputs: Tensor, labels: Tensor, precision: torch.dtype | None = None) -> Tensor:
        """Four eps of the largest prediction."""
        return rounding_error(outputs, precision)

    def requirement(self, labels: Tensor, width: int, targets: Tensor | None = None) -> Requirement:
        """tolerance ∓ (prediction_k − target_k) > 0, from both sides: 2 K rows ∓e_k.

        The shift is a little smaller than tolerance ± target, by more than the subtractions of `scores` may round.

        >>> found = Regression(tolerance=2.0).requirement(torch.tensor([10.0]), 1)
        >>> found.rows.tolist(), found.shift.round().tolist()
        ([[[-1.0], [1.0]]], [[12.0, -8.0]])
        """
        assert self.tolerance is not None
        wanted = labels.reshape(len(labels), -1).double()
        unit = torch.eye(width, dtype=torch.float64, device=labels.device)
        rows = torch.stack((-unit, unit), dim=1).flatten(0, 1)  # −e_0, e_0, −e_1, …
        shift = torch.stack((self.tolerance + wanted, self.tolerance - wanted), dim=2).flatten(1)
        shift = shift - 2.0**-50 * (self.tolerance + wanted.abs()).repeat_interleave(2, dim=1)
        return Requirement(rows.expand(len(labels), -1, -1), shift)

    def described(self, labels: Tensor) -> list[dict[str, Any]]:
        """The target: a number, or a list of K."""
        return [{"target": _plain(target)} for target in labels.reshape(len(labels), -1).tolist()]

    def payload(self, outputs: Tensor, labels: Tensor) -> list[dict[str, Any]]:
        """Prediction and error of each example: a number each, or a list of K."""
        said, errors = outputs.detach().double(), self.errors(outputs.detach(), labels)
        return [
            {"prediction": _plain(prediction), "error": _plain(error)}
            for prediction, error in zip(said.tolist(), errors.tolist(), strict=True)
        ]

    def summary(self, outputs: Tensor, labels: Tensor) -> Mapping[str, float]:
        """Mean absolute error, root mean square error, and R² over all outputs (undefined for constant targets).

        >>> found = Regression().summary(torch.tensor([[1.0], [4.0]]), torch.tensor([0.0, 4.0]))
        >>> {name: round(value, 4) for name, value in found.items()}
        {'MAE': 0.5, 'RMSE': 0.7071, 'R²': 0.875}
        """
        errors = self.errors(outputs.detach(), labels)
        wanted = labels.reshape(len(labels), -1).double()
        rest, whole = errors.square().sum(0), (wanted - wanted.mean(0)).square().sum(0)
        found = {"MAE": float(errors.abs().mean()), "RMSE": float(errors.square().mean().sqrt())}
        if bool((whole > 0).all()):
            found["R²"] = float((1.0 - rest / whole).mean())
        return found


def _plain(values: list[float]) -> Any:
    """One number by itself, several as a list; what is no number as text, which JSON can hold."""
    kept = [value if math.isfinite(value) else str(value) for value in values]
    return kept[0] if len(kept) == 1 else kept
