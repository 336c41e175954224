"""Read a module into a list of operations through `torch.export`, and believe the list only after a trial.

What is not in the table of `translation` is refused with the place in the module where it stands.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from trustbound.certificates.graph.exporting import BATCH, OTHERS, Exactly, Exported, export
from trustbound.certificates.graph.folding import fold
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.normalisation import own_eps
from trustbound.certificates.graph.operations import Input, LogSoftmax, Operation
from trustbound.certificates.graph.translation import PRECISIONS, Translator
from trustbound.certificates.graph.validation import Modules, compare
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.in_box import check_fits

_LARGEST = 2**25  # numbers in a batch that is exported only to see that nothing hangs on its size


class _InOneRow(nn.Module):
    """A network whose maps lie behind one another."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → (B, K)."""
        outputs: Tensor = self.network(inputs)
        return outputs.flatten(1)


def read(model: nn.Module, inputs: Tensor, *, maps: bool = False) -> Graph:
    """Read `model` into a checked list of operations; `inputs` (B, *F) show the shape and the range.

    With `maps` it gives maps (B, C, H, W), which the list ends in as one long row.

    A copy is exported in the module's own precision, so that every step says in which precision the module computes
    it; weights, modes, buffers, gradients and the global random state stay as they are. The list is then run beside
    the exported program, the module and its float64 copy: on the inputs, the box and its corners (the model's own,
    else the inputs' range), far outside it and on both sides of its branches, one by one and together.

    Raises      UnsupportedError naming the layer that has no proof, or saying that list and module disagree.
                InputError when `inputs` are not a floating-point batch.

    >>> read(nn.Sequential(nn.Linear(2, 2), nn.Mish()), torch.rand(1, 2))
    Traceback (most recent call last):
    trustbound.errors.UnsupportedError: no proof: 1 (Mish). Certificates read linear, ...
    """
    if inputs.ndim < 2 or not inputs.is_floating_point() or len(inputs) == 0:
        raise InputError(
            "certificates need `inputs` (B, *F) of a floating dtype, B ≥ 1; "
            f"got shape {tuple(inputs.shape)}, {inputs.dtype}"
        )
    box = getattr(model, "box", None)
    if box is not None:
        check_fits(inputs, box)
    _refuse_kinds(model)
    device, dtype = _fed(model, inputs)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        own, double = _copies(model, dtype)
        shape = tuple(own(inputs[:1].detach().to(device, dtype)).shape[1:]) if maps else None
        if maps:
            own, double = _InOneRow(own), None if double is None else _InOneRow(double)
        shown = inputs.detach().to(device, torch.float64)
        sample = shown[torch.arange(BATCH, device=device) % len(shown)].to(dtype)
        exported, translator, operations = _translated(own, sample, _depth(model) + maps)
        graph = Graph(
            operations=fold(operations),
            dtype=max((step.dtype for step in operations if step.dtype), key=lambda kind: torch.finfo(kind).eps),
            device=device,
            maps=shape,
        )
        if len(graph.operations[-1].shape) != 1 or isinstance(graph.operations[-1], Input):
            raise UnsupportedError(
                "certificates need logits (B, C) computed from the inputs; "
                f"got outputs of shape (B, {', '.join(map(str, graph.operations[-1].shape))})"
            )
        for step in graph.operations[:-1]:
            if isinstance(step, LogSoftmax):
                raise UnsupportedError(
                    f"no proof: {step.where}: a logarithm of probabilities that the model goes on to compute with; "
                    "certificates read it as the last step only"
                )
        one = all(step.dtype in (dtype, torch.float64) for step in operations)
        strict = one and translator.exact and not exported.explicit
        program = Exactly(exported, translator.values)
        compiled = any(isinstance(getattr(part, "_orig_mod", None), nn.Module) for part in model.modules())
        modules = Modules(own=own, double=double, compiled=(_InOneRow(model) if maps else model) if compiled else None)
        compare(graph, operations, program, exported.calls, modules, shown, box, strict=strict)
    return graph


def _fed(model: nn.Module, inputs: Tensor) -> tuple[torch.device, torch.dtype]:
    """Return the device of a module and the precision of what it is called with.

    A wrapped model says itself in which precision its inputs are kept; it casts them to its own, which the list then
    shows. Any other module is called with the inputs as they are where it takes them, else in its weights' precision.
    """
    own = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    said, kinds = getattr(model, "input_dtype", None), {tensor.dtype for tensor in own}
    dtype = said if isinstance(said, torch.dtype) else inputs.dtype
    if dtype is not said and len(kinds) == 1 and dtype not in kinds and not _takes(model, inputs):
        dtype = kinds.pop()
    if dtype not in PRECISIONS:
        raise UnsupportedError(f"no proof: the model takes inputs of {dtype}; certificates need a floating precision")
    return own[0].device if own else inputs.device, dtype


def _takes(model: nn.Module, inputs: Tensor) -> bool:
    """Say whether a copy of a module answers inputs of their own precision: one that casts them itself does."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            _copy(model)(inputs[:2].clone())
    except Exception:
        return False
    return True


def _copies(model: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, nn.Module | None]:
    """Return a copy of the module to export and run, and one in float64 where that can be made."""
    try:
        own = _copy(model)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnsupportedError(f"no proof: the model cannot be copied ({reason})") from error
    if dtype == torch.float64:
        return own, None
    try:
        double = _copy(own).double()
        for part in double.modules():
            if isinstance(part, nn.RMSNorm) and part.eps is None:
                part.eps = own_eps(dtype)
        return own, double
    except Exception:
        return own, None  # the program and the module in its own precision are compared all the same


def _copy(model: nn.Module) -> nn.Module:
    """Copy a module; weights that its hooks compute are copied by value, and compiled parts are left uncompiled."""
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    whole = nn.ModuleDict({"model": copy.deepcopy(model, memo)})
    for module in list(whole.modules()):
        for name, child in list(module.named_children()):
            inner: object = child
            while isinstance(inner, nn.Module) and isinstance(getattr(inner, "_orig_mod", None), nn.Module):
                inner = inner._orig_mod
            setattr(module, name, inner)
    return whole["model"]


def _translated(module: nn.Module, sample: Tensor, depth: int) -> tuple[Exported, Translator, list[Operation]]:
    """Export and translate; a module that fixes its batch size is read at several, and must be the same at each."""
    exported = export(module, sample)
    translator = Translator(depth, exported.batch, BATCH, sample)
    try:
        operations = translator.translate(exported.program)
    except UnsupportedError:
        if not exported.plain:
            raise
        # What the table does not name may be made of what it names: torch takes it apart.
        exported = export(module, sample, whole=True)
        translator = Translator(depth, exported.batch, BATCH, sample)
        operations = translator.translate(exported.program)
    if exported.fixed:
        for count in OTHERS:
            if count * sample[0].numel() > _LARGEST:
                continue
            other = sample[torch.arange(count, device=sample.device) % BATCH]
            again = export(module, other, free=False, whole=not exported.plain)
            if not _same(operations, Translator(depth, count, count, sample).translate(again.program)):
                raise UnsupportedError(
                    f"no proof: the model computes something else for a batch of {count} inputs than for {BATCH}; "
                    "it must treat every example alike, however many come together"
                )
    return exported, translator, operations


def _same(first: Sequence[Operation], second: Sequence[Operation]) -> bool:
    """Say whether two lists are the same, number by number."""
    if [type(step) for step in first] != [type(step) for step in second]:
        return False
    for one, other in zip(first, second, strict=True):
        for field in fields(one):
            left, right = getattr(one, field.name), getattr(other, field.name)
            if isinstance(left, Tensor) and isinstance(right, Tensor):
                if left.shape != right.shape or not torch.equal(left, right):
                    return False
            elif left is not right and left != right:
                return False
    return True


def _refuse_kinds(model: nn.Module) -> None:
    """Refuse layers that act differently on each call or batch, and those that hold no torch program to read."""
    batch_norm, dropout = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd
    for path, module in model.named_modules():
        name = f"{path or 'forward'} ({type(module).__name__})"
        random = isinstance(module, dropout) and module.p > 0
        mixing = isinstance(module, batch_norm)
        if module.training and (random or mixing):
            raise UnsupportedError(
                f"no proof: {name} is in training mode, where its outputs "
                "depend on chance or on the rest of the batch. Call model.eval() first."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedError(
                f"no proof: {name} is TorchScript, which cannot be read. Pass the module that it was scripted from."
            )
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise UnsupportedError(
                f"no proof: {name} computes with integers ({type(module).__module__}); certify the float model."
            )


def _depth(model: nn.Module) -> int:
    """Return how many modules stand around the user's own in exported paths, so that users read their own names."""
    children = list(model.named_children())
    return 2 if len(children) == 1 and children[0][0] == "module" else 1
