"""A weights file that knows its architecture, its normalisation and its box."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trustbound.errors import InputError
from trustbound.model.wrapping import Model
from trustbound.record.box import Box

FORMAT = 1
_KEY = "trustbound"


def save_model(
    model: nn.Module,
    path: str | Path,
    *,
    architecture: str | None = None,
    arguments: dict[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Write weights as safetensors with what is needed to load them again.

    Parameters
        model                    a `Model` (its box, mean and std are kept) or a bare module.
        architecture, arguments  the zoo name and its arguments; taken from a module that `build` made.

    The file is written beside its place, flushed, and renamed: it is whole or not there.

    Raises      InputError when the path does not end in .safetensors, its folder cannot be written, or the
                arguments are no JSON.

    >>> import tempfile
    >>> from trustbound.model.zoo.build import build
    >>> folder = tempfile.TemporaryDirectory()
    >>> saved = save_model(build("fc", widths=[8], input_shape=[4], classes=3), f"{folder.name}/a.safetensors")
    >>> read_notes(saved)["architecture"]
    'fc'
    """
    from safetensors.torch import save_file

    if not isinstance(path, str | os.PathLike) or not isinstance(model, nn.Module):
        raise InputError(f"save_model takes a model and a path; got {type(model).__name__} and {path!r}")
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"a model is saved as .safetensors; got {str(path)!r}")
    module = model.module if isinstance(model, Model) else model
    notes: dict[str, Any] = {
        "format": FORMAT,
        "architecture": architecture or getattr(module, "architecture", None),
        "arguments": arguments if arguments is not None else getattr(module, "arguments", {}),
    }
    if isinstance(model, Model):
        notes["box"] = [np.asarray(model.box.low).tolist(), np.asarray(model.box.high).tolist()]
        notes["mean"] = None if model.mean is None else model.mean.tolist()
        notes["std"] = None if model.std is None else model.std.tolist()
    if class_names is not None:
        notes["class_names"] = list(class_names)
    try:
        text = json.dumps(notes)
    except (TypeError, ValueError) as error:
        raise InputError(f"`arguments` must be plain JSON values; {error}") from error
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata={_KEY: text})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except Exception as error:
        if part.is_file():
            part.unlink()
        raise InputError(f"{path} cannot be written: {error}") from error
    return path


def read_notes(path: Path) -> dict[str, Any]:
    """What `save_model` noted in a safetensors file; empty for a file that somebody else wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except FileNotFoundError as error:
        raise InputError(f"the file {str(path)!r} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is truncated, damaged or no safetensors file ({error}). Copy or save it again."
        ) from error
    if text is None:
        return {}
    try:
        notes = json.loads(text)
        supported = notes["format"] <= FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its notes under {_KEY!r} cannot be read ({error})") from error
    if not isinstance(notes.get("arguments") or {}, dict) or not isinstance(notes.get("architecture") or "", str):
        raise InputError(
            f"{path}: its notes under {_KEY!r} must name an architecture and its arguments; got {text[:200]}"
        )
    if not supported:
        raise InputError(f"{path} was written by a newer trustbound (format {notes['format']}): update.")
    assert isinstance(notes, dict)
    return notes


def noted_box(notes: dict[str, Any]) -> Box | None:
    """The box that a file noted, if it did."""
    limits = notes.get("box")
    if limits is None:
        return None
    try:
        low, high = (torch.tensor(limit, dtype=torch.float64).numpy() for limit in limits)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the box noted in a weights file must be [low, high]; got {limits!r} ({error})") from error
    return Box(low, high)
