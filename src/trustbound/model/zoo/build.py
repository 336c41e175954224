"""Make an untrained network of the zoo that knows its own name and arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trustbound.errors import InputError
from trustbound.model.registry import ZOO


def build(name: str, *, seed: int | None = None, **arguments: Any) -> nn.Module:
    """Build an architecture with fresh weights, in training mode.

    Parameters
        seed       makes the weights reproducible; without one they come from torch's global generator.
        arguments  `input_shape`, `classes`, `activation` and what the architecture adds (`widths` of fc …).

    The module keeps `architecture` and `arguments`, so that `save_model` can write a file from which
    `load_model` builds it again.

    Randomness  with a seed the global generator is left as it was.
    Raises      InputError: unknown name, unknown argument, or sizes that do not fit each other.

    >>> module = build("fc", seed=0, widths=[20], input_shape=[4], classes=3)
    >>> module(torch.rand(2, 4)).shape, module.architecture
    (torch.Size([2, 3]), 'fc')
    """
    row = ZOO.find(name)
    arguments = {"input_shape": row.input_shape, "classes": row.classes, **arguments}
    _check(name, arguments)
    if seed is None:
        module = ZOO.build(name, **arguments)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = ZOO.build(name, **arguments)
    module.architecture, module.arguments = name, arguments
    assert isinstance(module, nn.Module)
    return module


def _check(name: str, arguments: dict[str, Any]) -> None:
    shape, classes = arguments["input_shape"], arguments["classes"]
    if not isinstance(shape, list | tuple) or not all(isinstance(side, int) and side > 0 for side in shape):
        raise InputError(f"`input_shape` must be the shape of one example, e.g. [1, 28, 28]; got {shape!r}")
    if not isinstance(classes, int) or classes < 2:
        raise InputError(f"`classes` must be a whole number, at least 2; got {classes!r}")
    if name != "fc" and len(shape) != 3:
        raise InputError(f"{name} needs pictures: `input_shape` (channels, height, width); got {shape!r}")
    arguments["input_shape"] = tuple(shape)
