"""All that a step changes, taken and put back: what a checkpoint holds and a roll-back goes back to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trustbound.errors import InputError

Snapshot = dict[str, Any]

#: What an objective may remember: `torch.load` reads nothing else back without running code.
_KINDS = (Tensor, int, float, str, bool, type(None))


def take(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> Snapshot:
    """Weights, buffers (also those that no state dict lists), the optimizer's moments, the objective's state.

    The tensors are those in use: copy what is to outlive a step.

    >>> net = nn.Linear(2, 1)
    >>> sorted(take(net, torch.optim.SGD(net.parameters()), {})["weights"])
    ['bias', 'weight']
    """
    return {
        "weights": {name: tensor.detach() for name, tensor in _tensors(model).items()},
        "optimizer": optimizer.state_dict(),
        "state": dict(state),
    }


def put(snapshot: Snapshot, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> dict[str, Any]:
    """Write weights, buffers and moments back in place; returns a copy of the objective's state on the device."""
    own = _tensors(model)
    with torch.no_grad():
        for name, tensor in snapshot["weights"].items():
            own[name].copy_(tensor)
    optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))
    return {
        name: value.to(device, copy=True) if isinstance(value, Tensor) else value
        for name, value in snapshot["state"].items()
    }


def check_state(state: Any, name: str) -> None:
    """Refuse a state that a checkpoint could not hold; `name` is the objective's.

    >>> check_state({"perturbation": torch.zeros(8, 2), "seen": 0}, "free")
    """
    odd = (
        [type(state).__name__]
        if not isinstance(state, Mapping)
        else [f"{key}: {type(value).__name__}" for key, value in state.items() if not isinstance(value, _KINDS)]
    )
    if odd:
        raise InputError(
            f"the state of an objective must map names to tensors, numbers or texts; {name} starts with "
            f"{', '.join(odd)}. Write what it holds as such."
        )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
