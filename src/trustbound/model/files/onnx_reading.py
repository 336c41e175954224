"""Open an ONNX file: the graph, its numbers, and the one input that it has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trustbound.errors import InputError, MissingDependencyError
from trustbound.record.disk.unpacking import unpacked

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """What stands in a file.

    Parameters
        nodes       NodeProto in the order in which they run.
        constants   initialisers by name.
        name, shape the input and its shape for one example: an open first axis is 1.
        outputs     names.
        opset       version of the operators of the default domain.
        beside      files in which weights lie.
    """

    path: Path
    nodes: tuple[Any, ...]
    constants: dict[str, Array]
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    outputs: tuple[str, ...]
    opset: int
    beside: tuple[Path, ...]


def onnx_package() -> Any:
    """The package `onnx`.

    Raises      MissingDependencyError with the extra that brings it.
    """
    try:
        import onnx
        import onnx.inliner
        import onnx.numpy_helper
        import onnx.reference
    except ImportError as error:
        raise MissingDependencyError(f"ONNX files need an extra: pip install 'trustbound[onnx]' ({error})") from error
    return onnx


def precisions() -> dict[int, torch.dtype]:
    """Floating-point types of ONNX and of torch."""
    kinds = onnx_package().TensorProto
    return {
        kinds.FLOAT: torch.float32,
        kinds.DOUBLE: torch.float64,
        kinds.FLOAT16: torch.float16,
        kinds.BFLOAT16: torch.bfloat16,
    }


def open_file(path: Path) -> OnnxFile:
    """Read a file, gzipped or not, with the weights that lie beside it.

    Raises      InputError: damaged, several inputs, open sizes besides the batch, batches of a fixed size above 1.
                MissingDependencyError without the package.
    """
    onnx = onnx_package()
    try:
        with unpacked(path) as stream:
            model = onnx.load_model_from_string(stream.read())
        beside = _load_beside(onnx, model, path)
        model = onnx.inliner.inline_local_functions(model) if model.functions else model
        constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    except InputError:
        raise
    except Exception as error:  # whatever protobuf, numpy or a compression raises of what is no such file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} cannot be read as ONNX ({reason}). Export or copy it again.") from error
    if model.graph.sparse_initializer:
        raise InputError(f"{path} holds sparse weights, which are not read. Store them densely.")
    graph = model.graph
    if not graph.node or not graph.output:
        raise InputError(f"{path} cannot be read as ONNX (no nodes). Export or copy it again.")
    given = [one for one in graph.input if one.name not in constants]
    if len(given) != 1:
        raise InputError(
            f"{path} must have one input; it has {len(given)}: {', '.join(one.name for one in given)}. Export a model "
            "of one tensor."
        )
    shape, dtype = _input(path, given[0])
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
    return OnnxFile(
        path=path,
        nodes=tuple(graph.node),
        constants=constants,
        name=given[0].name,
        shape=shape,
        dtype=dtype,
        outputs=tuple(one.name for one in graph.output),
        opset=opset,
        beside=beside,
    )


def _load_beside(onnx: Any, model: Any, path: Path) -> tuple[Path, ...]:
    """Read weights from the files beside that the model names."""
    places = {
        entry.value
        for one in model.graph.initializer
        if one.data_location == onnx.TensorProto.EXTERNAL
        for entry in one.external_data
        if entry.key == "location"
    }
    folder = path.parent.resolve()
    found = []
    for place in sorted(places):
        file = Path(os.path.normpath(folder / place))
        if not file.is_relative_to(folder) or not file.is_file():
            raise InputError(f"{path} keeps weights in {place!r}, which must be a file beside it. Copy it there.")
        found.append(file)
    if found:
        onnx.load_external_data_for_model(model, str(folder))
    return tuple(found)


def _input(path: Path, given: Any) -> tuple[tuple[int, ...], torch.dtype]:
    """The shape of one example, and the precision of the input."""
    kind = given.type.tensor_type
    dtype = precisions().get(kind.elem_type)
    if dtype is None:
        raise InputError(
            f"{path}: the input {given.name!r} must be of floating point; it has the ONNX type {kind.elem_type}. Cast "
            "inside of the model."
        )
    sizes = [one.dim_value if one.HasField("dim_value") else 0 for one in kind.shape.dim]
    if not sizes:
        raise InputError(f"{path}: the input {given.name!r} says no shape. Export it with one.")
    if len(sizes) > 1 and sizes[0] <= 0:
        sizes[0] = 1
    if any(size <= 0 for size in sizes):
        names = [one.dim_param or "?" if size <= 0 else size for one, size in zip(kind.shape.dim, sizes, strict=True)]
        raise InputError(
            f"{path}: only the batch may be open, the first axis of the input {given.name!r}; its shape is {names}. "
            "Export it with fixed sizes."
        )
    if len(sizes) > 1 and sizes[0] != 1:
        raise InputError(
            f"{path} was exported for batches of exactly {sizes[0]}. Export it for one input, or with an open batch "
            "axis: dynamic_axes={'inputs': {0: 'batch'}}."
        )
    return tuple(sizes), dtype
