"""What a search may change on a model for its own time, and puts back: weights' flags, buffers, hooks, randomness."""

from __future__ import annotations

import contextlib
import random as python_random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from trustbound.errors import InputError
from trustbound.model.wrapping import Model


@contextlib.contextmanager
def untouched(model: Model, key: int) -> Iterator[None]:
    """Freeze the weights and remember everything that a forward pass may change."""
    thawed = [weight for weight in model.parameters() if weight.requires_grad]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    states = python_random.getstate(), np.random.get_state()
    with _seeded(model.device, key):
        for weight in thawed:
            weight.requires_grad_(False)
        try:
            yield
        finally:
            for weight in thawed:
                weight.requires_grad_(True)
            with torch.no_grad():
                for buffer, before in buffers:
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)
            python_random.setstate(states[0])
            np.random.set_state(states[1])


@contextlib.contextmanager
def _seeded(device: torch.device, key: int) -> Iterator[None]:
    """Global generators of torch, seeded for a while.

    For a model on the CPU its generator alone: `torch.manual_seed` would also order a seed for accelerators that were
    not used yet, which nothing could take back.
    """
    if device.type == "cuda":
        with torch.random.fork_rng(devices=[device]):
            torch.manual_seed(key)
            yield
        return
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(key)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


@contextlib.contextmanager
def stand_ins(model: Model) -> Iterator[None]:
    """Backward passes go through the declared stand-ins, forward passes through the real parts (BPDA)."""
    handles = []
    modules = dict(model.module.named_modules())
    try:
        for path, stand_in in model.adaptation.stand_ins.items():
            if path not in modules:
                raise InputError(
                    f"the stand-in names module {path!r}, which the model does not have; "
                    f"it has {', '.join(sorted(filter(None, modules))) or 'no named parts'}"
                )

            def through(
                module: nn.Module,
                arguments: tuple[Tensor, ...],
                output: Tensor,
                replace: Callable[[Tensor], Tensor] = stand_in,
            ) -> Tensor:
                if not arguments[0].requires_grad:
                    return output
                smooth = replace(arguments[0])
                return smooth + (output - smooth).detach()

            handles.append(modules[path].register_forward_hook(through))
        yield
    finally:
        for handle in handles:
            handle.remove()
