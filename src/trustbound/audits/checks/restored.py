"""Is the model as it came?"""

from __future__ import annotations

import hashlib
import random as python_random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trustbound.audits.checks.context import After
from trustbound.audits.checks.finding import EvaluationCheck, Finding, unmeasured

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fingerprint(module: nn.Module) -> dict[str, str]:
    """One digest for each thing that a search must leave alone.

    >>> layer = nn.Linear(2, 2)
    >>> before = fingerprint(layer)
    >>> _ = layer.register_forward_hook(lambda *_: None)
    >>> [name for name, digest in fingerprint(layer).items() if digest != before[name]]
    ['hooks']
    """
    parts = list(module.named_modules())
    weights = list(module.named_parameters())
    numpy_state: Any = np.random.get_state(legacy=True)
    return {
        "weights": _tensors(weights),
        "buffers": _tensors(module.named_buffers()),
        "gradients": _tensors((name, one.grad) for name, one in weights),
        "requires_grad": _text(f"{name}={one.requires_grad}" for name, one in weights),
        "modes": _text(f"{name}={part.training}" for name, part in parts),
        "hooks": _text(
            f"{name}.{kind}={list(map(id, getattr(part, kind, {}).values()))}"
            for name, part in parts
            for kind in _HOOKS
        ),
        "random state": _text(
            (
                torch.random.get_rng_state().numpy().tobytes().hex(),
                str(python_random.getstate()),
                f"{numpy_state[1].tobytes().hex()}{numpy_state[2]}",
            )
        ),
    }


def _tensors(named: Iterable[tuple[str, Tensor | None]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in named:
        if tensor is None:
            digest.update(f"{name} None".encode())
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.device}".encode())
        digest.update(_bytes(tensor.detach()))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    """The values of a tensor, of any layout."""
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    elif tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    plain = tensor.cpu().contiguous().flatten()
    return bytes(plain.view(torch.uint8).numpy().tobytes()) if plain.numel() else b""


def _text(lines: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class ModelRestored(EvaluationCheck[After]):
    """Compare the model's fingerprint with the one taken before the search.

    Measures    how many of these changed: weights, buffers, gradients, requires_grad, modes, hooks, and the
                global random state of torch, numpy and Python.
    Cost        no model call; one pass over the weights.

    >>> ModelRestored.name
    'model-restored'
    """

    name: ClassVar[str] = "model-restored"

    def measure(self, context: After) -> Finding:
        """Name what changed."""
        before: Mapping[str, str] | None = context.evidence.fingerprint
        if before is None:
            return unmeasured("no fingerprint was taken before the search")
        now = fingerprint(context.model.module)
        changed = sorted(name for name in before if before[name] != now.get(name))
        return Finding(
            value=float(len(changed)),
            finding=f"changed during the search: {', '.join(changed)}"
            if changed
            else f"unchanged: {', '.join(before)}",
            advice="the numbers belong to a model that was changed under way: find what changed it (a forward "
            "that writes to its own weights, another thread, a hook) and run again.",
            evidence={"changed": changed},
        )
