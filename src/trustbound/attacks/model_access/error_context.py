"""An exception of the model, with what it was asked: by whom, about which examples, in what batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from trustbound.errors import BackwardError, ModelError, TrustboundError

_ALL = slice(None)


class ErrorContext:
    """Call it around every call of the model: `with asking(points, owner): model(points)`.

    Trustbound's own errors, memory that ran out and the keyboard pass as they are.

    Parameters
        model   its name.
        task    who asks, in words.
        names   (examples,) what each example is called; None: its row.
    """

    def __init__(self, model: str, task: str, names: Tensor | None) -> None:
        self.model = model
        self.task = task
        self.names = names

    @contextlib.contextmanager
    def __call__(
        self, points: Tensor, owner: Tensor, rows: slice = _ALL, kind: type[ModelError] = ModelError
    ) -> Iterator[None]:
        """Around a call about points (R, *F), owned by the examples owner[rows]."""
        try:
            yield
        except (TrustboundError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            first = (str(error).splitlines() or [""])[0] or "no message"
            asked_about = owner[rows].unique().cpu()
            called = (asked_about if self.names is None else self.names.cpu()[asked_about]).tolist()
            listed = ", ".join(map(str, called[:5])) + (" …" if len(called) > 5 else "")
            backward = " in its backward pass" if kind is BackwardError else ""
            asked = f"asked by {self.task}" if self.task else "asked"
            raise kind(
                f"{self.model} must answer every input of its box, in batches of any size; it raised{backward} "
                f"{type(error).__name__}: {first} ({asked} about {len(called)} examples, {listed}: a batch of shape "
                f"{tuple(points.shape)}, {points.dtype}). Call the model on such a batch to see where; if it fails "
                "on some batch sizes only, set batch_size."
            ) from error
