"""Weights from a file into a module: read without running code, matched name by name and shape by shape."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trustbound.errors import InputError
from trustbound.model.files.beside import importable, without_source
from trustbound.model.files.recognising import refuse_foreign
from trustbound.record.disk.unpacking import check_zip, refuse_bomb

NESTS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def read_weights(path: Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a torch checkpoint, on the CPU.

    A checkpoint is read with `weights_only=True`; the tensors may lie under `state_dict`, `model_state_dict`,
    `model` or `net`, also nested. With `trust_pickle` it is unpickled, which runs whatever code it holds.

    Raises      InputError: truncated or damaged, pickled code without trust, no tensors, NaN or infinity, more than
                may be unpacked (see `record.disk.unpacking`).
    """
    if refuse_foreign(path) == "safetensors" or path.suffix.lower() == ".safetensors":
        held: Any = _read_safetensors(path)
    else:
        held = read_checkpoint(path, trust_pickle=trust_pickle)
        if isinstance(held, nn.Module):
            held = held.state_dict()
    tensors = _tensors(held)
    if tensors is None:
        came = f"keys {list(map(str, held))[:10]}" if isinstance(held, Mapping) else type(held).__name__
        raise InputError(f"{path} must hold named tensors, at the top or under {', '.join(NESTS)}; got {came}.")
    # A tensor of 10^12 values may be one stored value, repeated.
    refuse_bomb(path, path.stat().st_size, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: the tensor {name!r} holds NaN or infinite values. Was training stable?")
    return tensors


def read_checkpoint(path: Path, *, trust_pickle: bool = False) -> Any:
    """Whatever `torch.save` wrote, restricted to tensors and plain data unless pickles are trusted."""
    try:
        if zipfile.is_zipfile(path):
            check_zip(path)
        with warnings.catch_warnings(), importable(path) if trust_pickle else nullcontext():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"the file {str(path)!r} does not exist") from error
    except Exception as error:  # a damaged checkpoint fails in many ways, all of them the file's fault
        raise _refusal(path, error, trust_pickle) from error


def _refusal(path: Path, error: Exception, trust_pickle: bool) -> InputError:
    text = str(error)
    refused = re.search(r"Unsupported (?:global: GLOBAL|class|operand) ([\w.]+)", text) or re.search(
        r"GLOBAL ([\w.]+)", text
    )
    if not trust_pickle and isinstance(error, pickle.UnpicklingError) and refused:
        return InputError(
            f"{path} holds pickled code ({refused[1]}), which was not run. Save the weights alone "
            "(torch.save(model.state_dict(), …) or safetensors); if you trust whoever made the file, pass "
            "trust_pickle=True (--trust-pickle)."
        )
    first = next(iter(text.splitlines()), "") or type(error).__name__
    if trust_pickle and isinstance(error, AttributeError | ImportError):
        return without_source(path, error)
    return InputError(f"{path} is truncated, damaged or no torch checkpoint ({first[:200]}). Copy or save it again.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        loaded: dict[str, Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"the file {str(path)!r} does not exist") from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is truncated, damaged or no safetensors file ({error}). Copy or save it again."
        ) from error
    return loaded


def _tensors(held: Any, depth: int = 3) -> dict[str, Tensor] | None:
    if not isinstance(held, Mapping) or not held or depth == 0:
        return None
    if all(isinstance(value, Tensor) for value in held.values()):
        return {str(name): value for name, value in held.items()}
    for nest in NESTS:
        if (inner := held.get(nest)) is not None:
            inner = inner.state_dict() if isinstance(inner, nn.Module) else inner
            if (found := _tensors(inner, depth - 1)) is not None:
                return found
    return None


def fit_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a module whose names and shapes must all match, see `check_weights`."""
    module.load_state_dict(check_weights(module, tensors, path))


def check_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors under the module's own names, when names and shapes all match.

    Prefixes that wrappers leave (`module.`, `_orig_mod.`, `model.`, `net.`) are taken off while every name
    has one and the module's own names do not.

    Raises      InputError listing missing names, unexpected names and differing shapes.
    """
    wanted = module.state_dict()
    given = dict(tensors)
    while given and not set(given) & set(wanted):
        prefix = next((one for one in PREFIXES if all(name.startswith(one) for name in given)), None)
        if prefix is None:
            break
        given = {name.removeprefix(prefix): tensor for name, tensor in given.items()}
    problems = []
    if missing := [name for name in wanted if name not in given]:
        problems.append(f"missing: {_some(missing)}")
    if unexpected := [name for name in given if name not in wanted]:
        problems.append(f"unexpected: {_some(unexpected)}")
    wrong = [
        f"{name} needs {tuple(wanted[name].shape)}, got {tuple(tensor.shape)}"
        for name, tensor in given.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    if wrong:
        problems.append(f"wrong shapes: {_some(wrong)}")
    if problems:
        raise InputError(
            f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}. "
            "Check the architecture and its arguments (input_shape, classes, widths …)."
        )
    return given


def _some(names: Sequence[str], most: int = 10) -> str:
    more = f" … and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
