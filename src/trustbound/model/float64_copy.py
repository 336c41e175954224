"""A float64 copy of a model, tried before anything rests on it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trustbound.model.wrapping import Model


@dataclass(frozen=True, eq=False)
class Double:
    """The copy, or None and why there is none."""

    model: Model | None
    reason: str = ""


def double(model: Model, inputs: Tensor) -> Double:
    """Copy a model to float64 and ask the copy about a few examples (B, *F).

    Many a forward pass cannot follow its weights: it casts, holds a state or a kernel in float32, goes through numpy
    or through 8-bit weights.

    Cost        1 forward of the copy; neither the model nor the global random state is touched.

    >>> from trustbound.model.wrapping import wrap
    >>> double(wrap(torch.nn.Linear(4, 3)), torch.rand(2, 4)).model.dtype
    torch.float64
    """
    copied = model.in_float64()
    if copied is None:
        return Double(None, "the module cannot be copied" if model.shows == "gradients" else "it is no torch module")
    try:
        with torch.no_grad(), _random_state_kept():
            outputs = copied(inputs.to(torch.float64))
    except Exception as error:
        first = (str(error).splitlines() or [""])[0] or "no message"
        return Double(None, f"its copy raises {type(error).__name__}: {first}")
    if not bool(outputs.isfinite().all()):
        return Double(None, "its copy answers with NaN or infinity")
    return Double(copied)


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
