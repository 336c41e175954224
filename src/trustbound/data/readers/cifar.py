"""The original CIFAR-10 archive, whose members are pickles: read without running anything in them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustbound.data.labelled import LabelledSet
from trustbound.data.registry import PublishedSet
from trustbound.errors import InputError
from trustbound.record.box import Box
from trustbound.record.disk.unpacking import DAMAGED, members

_BATCHES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}


def read_cifar10(paths: dict[str, Path], row: PublishedSet, split: str, *, box: Box | None = None) -> LabelledSet:
    """Pictures (N, 3, 32, 32), kept as uint8, from `cifar-10-python.tar.gz`; nothing is extracted to disk.

    Checks      gzip's own checksum, the members' names, array types and shapes, labels in 0..9.
    Raises      InputError: truncated archive, missing member, or a pickle of anything but numbers.
    Reference   Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    (path,) = paths.values()
    wanted = _BATCHES[split]
    parts: dict[str, tuple[NDArray[np.uint8], list[int]]] = {}
    try:
        with members(path) as files:
            for archive, member in files:
                name = member.name.rsplit("/", 1)[-1]
                file = archive.extractfile(member) if name in wanted else None
                if file is not None and name in parts:
                    raise InputError(f"{path} holds {name} twice. Delete it and fetch it again.")
                if file is not None:
                    parts[name] = _batch(file.read(), f"{path}, member {member.name}")
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{path} is truncated or no tar archive ({error}). Delete it and fetch it again.") from error
    if missing := [name for name in wanted if name not in parts]:
        raise InputError(
            f"{path} must hold {', '.join(wanted)}; missing: {', '.join(missing)}. "
            "The archive cifar-10-python.tar.gz of the CIFAR page is needed, not the matlab or binary one."
        )
    return LabelledSet(
        np.concatenate([parts[name][0] for name in wanted]).reshape(-1, 3, 32, 32),
        np.concatenate([parts[name][1] for name in wanted]).astype(np.int64),
        box=box or Box(0.0, 1.0),
        class_names=row.class_names,
        name=f"{row.name}/{split}",
    )


def _batch(raw: bytes, where: str) -> tuple[NDArray[np.uint8], list[int]]:
    try:
        held = _NumbersOnly(io.BytesIO(raw), encoding="bytes").load()
    except _RefusedError as error:
        raise InputError(f"{where} holds {error}: refused, and nothing in it was run.") from error
    except Exception as error:  # a damaged pickle fails in many ways, all of them the file's fault
        raise InputError(f"{where} is no readable pickle ({error}). Fetch the archive again.") from error
    pictures = _entry(held, "data")
    labels = _entry(held, "labels")
    good = (
        isinstance(pictures, np.ndarray)
        and pictures.dtype == np.uint8
        and pictures.ndim == 2
        and pictures.shape[1] == 3072
        and isinstance(labels, list)
        and len(labels) == len(pictures)
        and all(type(label) is int and 0 <= label < 10 for label in labels)
    )
    if not good:
        raise InputError(
            f"{where} must hold `data` (N, 3072) uint8 and `labels`, N numbers in 0..9; got "
            f"{getattr(pictures, 'shape', type(pictures).__name__)} {getattr(pictures, 'dtype', '')} and "
            f"{len(labels) if isinstance(labels, list) else type(labels).__name__} labels"
        )
    return pictures, labels


def _entry(held: Any, key: str) -> Any:
    return held.get(key.encode(), held.get(key)) if isinstance(held, dict) else None


class _RefusedError(Exception):
    """A pickled global that is no part of an array of numbers."""


def _reconstruct(kind: Any, shape: Any, code: Any) -> NDArray[Any]:
    if kind is not np.ndarray:
        raise _RefusedError(f"an array of type {kind!r}")
    return np.ndarray.__new__(np.ndarray, (0,), np.dtype("u1"))


def _dtype(code: Any, *_: Any) -> np.dtype[Any]:
    text = code.decode("latin1") if isinstance(code, bytes) else code
    if text not in ("u1", "|u1", "uint8"):
        raise _RefusedError(f"values of type {text!r}")
    return np.dtype("u1", copy=True)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _RefusedError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


class _NumbersOnly(pickle.Unpickler):
    """An unpickler that can build dicts, lists, numbers, text and uint8 arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Admit the five names that an array needs, each through a narrow stand-in."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _RefusedError(f"the pickled name {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to anything outside the file."""
        raise _RefusedError(f"a reference to {pid!r}")
