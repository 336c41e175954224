"""Read a module into a list of operations through `torch.export`, and believe the list only after a trial.

What is not in the table of `translation` is refused with the place in the module where it stands.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from trustbound.certificates.graph.folding import fold
from trustbound.certificates.graph.listing import Graph
from trustbound.certificates.graph.operations import Input
from trustbound.certificates.graph.translation import Translator
from trustbound.errors import InputError, UnsupportedError

_BATCH = 3
_AGREEMENT = 1e-10


def read(model: nn.Module, inputs: Tensor) -> Graph:
    """Read `model` into a checked list of operations; `inputs` (B, *F) show the shape and the range.

    The module is copied to float64 and the copy is exported, so that weights, modes, buffers, gradients and
    the global random state stay as they are. The list is then run against the copy, on the inputs and on random
    points of the box (the model's own, else the inputs' range), one by one and together; they must agree to a
    relative 1e-10.

    Raises      UnsupportedError naming the layer that has no proof, or saying that list and module disagree.
                InputError when `inputs` are not a floating-point batch.

    >>> read(nn.Sequential(nn.Linear(2, 2), nn.GELU()), torch.rand(1, 2))
    Traceback (most recent call last):
    trustbound.errors.UnsupportedError: no proof: 1 (GELU). Certificates read linear, ...
    """
    if inputs.ndim < 2 or not inputs.is_floating_point() or len(inputs) == 0:
        raise InputError(
            "certificates need `inputs` (B, *F) of a floating dtype, B ≥ 1; "
            f"got shape {tuple(inputs.shape)}, {inputs.dtype}"
        )
    parameters = [tensor for tensor in model.parameters() if tensor.is_floating_point()]
    dtype = parameters[0].dtype if parameters else inputs.dtype
    device = parameters[0].device if parameters else inputs.device
    _refuse_training(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            double = copy.deepcopy(model).double()
        except Exception as error:
            raise UnsupportedError(f"no proof: the model cannot be copied to float64 ({error})") from error
        shown = inputs.detach().to(device, torch.float64)
        sample = shown[torch.arange(_BATCH, device=device) % len(shown)].clone()
        translator = Translator(_prefix(model), sample, dtype)
        graph = Graph(operations=fold(translator.translate(_export(double, sample))), dtype=dtype, device=device)
        if len(graph.operations[-1].shape) != 1 or isinstance(graph.operations[-1], Input):
            raise UnsupportedError(
                "certificates need logits (B, C) computed from the inputs; "
                f"got outputs of shape (B, {', '.join(map(str, graph.operations[-1].shape))})"
            )
        _compare(graph, double, shown, getattr(model, "box", None))
    return graph


def _refuse_training(model: nn.Module) -> None:
    """Refuse layers that act differently on each call or batch because they are in training mode."""
    batch_norm, dropout = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd
    for path, module in model.named_modules():
        random = isinstance(module, dropout) and module.p > 0
        mixing = isinstance(module, batch_norm)
        if module.training and (random or mixing):
            raise UnsupportedError(
                f"no proof: {path or 'forward'} ({type(module).__name__}) is in training mode, where its outputs "
                "depend on chance or on the rest of the batch. Call model.eval() first."
            )


def _prefix(model: nn.Module) -> str:
    """Return the path that a wrapper adds in front of its only child, so that users read their own names."""
    children = list(model.named_children())
    return "module." if len(children) == 1 and children[0][0] == "module" else ""


def _export(double: nn.Module, sample: Tensor) -> torch.export.ExportedProgram:
    """Export the float64 copy; its refusals become ours, by their first line."""
    try:
        return torch.export.export(double, (sample,), strict=False)
    except UnsupportedError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UnsupportedError(
            f"no proof: torch.export cannot read the model: {reason[0]}. "
            "Certificates need a forward pass without branches that depend on the values of the inputs."
        ) from error


def _compare(graph: Graph, double: nn.Module, shown: Tensor, box: Any) -> None:
    """Run the list and the module side by side; refuse when they differ anywhere."""
    chance = torch.Generator().manual_seed(20240229)
    shape = (8, *graph.shape)
    share = torch.rand(shape, generator=chance, dtype=torch.float64).to(shown.device)
    limits = (shown.min(), shown.max()) if box is None else (box.low, box.high)
    low, high = (torch.as_tensor(limit, dtype=torch.float64, device=shown.device) for limit in limits)
    inside = low + (high - low) * share
    corners = torch.where(share < 0.5, low, high).expand(shape)
    wide = (share - 0.5) * 8 * (high - low)
    for trial in (shown[:8], inside, corners, wide, inside[:1], wide[:5]):
        try:
            wanted = double(trial.clone())
        except Exception as error:  # whatever the module raises
            first = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise UnsupportedError(
                f"no proof: the model does not run in float64 ({first}). "
                "Make constants in the dtype of the inputs, or register them as buffers."
            ) from error
        found = graph(trial)
        if wanted.shape != found.shape:
            raise UnsupportedError(
                f"no proof: the model maps a batch of {len(trial)} to {tuple(wanted.shape)}, "
                f"the list of its operations to {tuple(found.shape)}; it must treat every example alike"
            )
        gap = (wanted - found).abs().max()
        if not bool(gap <= _AGREEMENT * wanted.abs().max().clamp(min=1e-3)):
            raise UnsupportedError(
                "no proof: the list of operations differs from the model by "
                f"{float(gap):.1e} in float64 on a batch of {len(trial)}; the model does something that its "
                "exported graph does not show (chance, state, lower precision or dependence between examples)"
            )
