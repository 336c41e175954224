"""Models that bring their own program: torch.export archives and TorchScript."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trustbound.errors import InputError


class Program(nn.Module):
    """An exported program behind a module whose mode is fixed: what was exported is what runs."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        self.training = False

    def forward(self, inputs: Tensor) -> Any:
        """Run the program."""
        return self.program(inputs)

    def train(self, mode: bool = True) -> Program:
        """Leave the mode alone: an exported program has none."""
        return self


def load_export(path: Path, *, trust_pickle: bool = False) -> nn.Module:
    """Load a `torch.export` archive.

    A program is code: load only what you would run. Archives that hold pickled objects besides tensors are
    refused without `trust_pickle`, because torch would unpickle them.

    Raises      InputError: damaged, pickled objects without trust, or exported for one fixed batch size.
    """
    if not trust_pickle:
        _refuse_pickles(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.load(path)
            module = exported.module()
    except Exception as error:
        raise InputError(
            f"{path} cannot be loaded as an exported program ({_first_line(error)}). "
            "Export it again with this version of torch."
        ) from error
    names = set(exported.graph_signature.user_inputs)
    inputs = [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(inputs) != 1:
        raise InputError(f"{path} must take one tensor (B, *F); its program takes {len(inputs)} inputs")
    shape = inputs[0].meta["val"].shape
    if isinstance(shape[0], int):
        raise InputError(
            f"{path} was exported for batches of exactly {shape[0]}. Export it with a dynamic batch axis: "
            'torch.export.export(model, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},)).'
        )
    return Program(module)


def load_torchscript(path: Path) -> nn.Module:
    """Load a TorchScript archive, a program like any other: load only what you would run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(path, map_location="cpu")
    except Exception as error:
        raise InputError(
            f"{path} cannot be loaded as TorchScript ({_first_line(error)}). Copy or save it again."
        ) from error
    assert isinstance(module, nn.Module)
    return module


def _refuse_pickles(path: Path) -> None:
    """Find pickled objects without unpickling any of them."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        suspect = [name for name in names if re.search(r"aotinductor/|\.so$", name)]
        if len(set(names)) != len(names):
            suspect.append("members that occur twice")
        for name in names:
            if name.endswith(".json") and '"use_pickle"' in (text := archive.read(name).decode("utf-8", "replace")):
                suspect += _pickled_payloads(text)
            if name.endswith(".pt") and not _only_tensors(archive.read(name)):
                suspect.append(name)
    if suspect:
        raise InputError(
            f"{path} holds pickled or compiled objects besides tensors ({', '.join(suspect[:5])}), which were "
            "not loaded. If you trust whoever made the file, pass trust_pickle=True (--trust-pickle)."
        )


def _pickled_payloads(text: str) -> list[str]:
    try:
        entries = json.loads(text)["config"]
        return [str(name) for name, entry in entries.items() if entry["use_pickle"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ["an unreadable payload table"]


def _only_tensors(raw: bytes) -> bool:
    if not raw:
        return True
    try:
        torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (next(iter(str(error).strip().splitlines()), "") or type(error).__name__)[:200]
