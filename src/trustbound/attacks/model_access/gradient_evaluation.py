"""What one forward and one backward pass tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from trustbound.errors import UnsupportedError

Apply = Callable[[Tensor, Tensor | slice], Tensor]


@dataclass(frozen=True, eq=False)
class GradientEvaluation:
    """One gradient: gradient (R, *P), scores (R, C), loss (R,), and the points (R, *F) it was taken at."""

    gradient: Tensor
    outputs: Tensor
    loss: Tensor
    points: Tensor


def flat(name: str) -> UnsupportedError:
    """The error of a model through which no gradient flows."""
    return UnsupportedError(
        f"no gradient flows from the outputs of {name} to its inputs: an operation breaks the graph. Declare a "
        "differentiable stand-in (--stand-in module.path=identity, Adaptation(stand_ins={'module.path': …})), or use "
        "an attack that needs scores only, such as square."
    )
