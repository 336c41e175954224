"""Numpy archives of inputs and labels."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0
from numpy.typing import NDArray

from trustbound.data.labelled import LabelledSet
from trustbound.data.readers.splits import DEFAULT, refuse_split
from trustbound.errors import InputError
from trustbound.record.box import Box
from trustbound.record.disk.unpacking import DAMAGED, check_zip
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.task import Task

INPUTS = ("inputs", "x", "images")
LABELS = ("labels", "y")


def read_npz(path: Path, split: str | None, *, box: Box | None = None, task: Task = CLASSIFICATION) -> LabelledSet:
    """Inputs from the key `inputs`, `x` or `images`, labels from `labels` or `y`; nothing is unpickled.

    Splits      where keys end in `_train` and `_test` (`x_test`, `y_test`) the split's keys are read, those of
                `test` unless one is named; a named split of a file without such keys is refused.
    Pictures    uint8 arrays (N, H, W) become (N, 1, H, W), and uint8 (N, H, W, 1 or 3) become channels first,
                unless the second axis is 1 or 3 itself; arrays of floats are taken as they are.
    Classes     a key `class_names` with one text per class is used.
    Raises      InputError: not an .npz, missing keys, pickled objects inside, arrays that declare more than they hold
                or than may be unpacked (see `record.disk.unpacking`), or what LabelledSet refuses.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it is no zip archive")
        check_zip(path)
        _check_arrays(path)
        with np.load(path, allow_pickle=False) as held:
            part = split or DEFAULT
            inputs, split_keys = _entry(path, held, INPUTS, part)
            labels, also = _entry(path, held, LABELS, part)
            if also != split_keys:
                raise InputError(f"{path} must hold inputs and labels of one split; only one of them is split")
            names = _names(path, held["class_names"]) if "class_names" in held else None
    except InputError:
        raise
    except (ValueError, *DAMAGED) as error:
        raise InputError(
            f"{path} cannot be read as an .npz of plain arrays ({error}). "
            "Write it with numpy.savez; arrays of objects are pickles and are not loaded."
        ) from error
    if not split_keys:
        refuse_split(path, split)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    name = f"{path.stem}/{part}" if split_keys else path.stem
    return LabelledSet(
        _channels_first(inputs), labels, box=box or Box(0.0, 1.0), class_names=names, name=name, task=task
    )


def _check_arrays(path: Path) -> None:
    """Refuse arrays whose header declares more values than the member holds: numpy would make room for them first."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as file:
                if file.read(6) != b"\x93NUMPY":
                    continue  # no array: numpy hands out its bytes
                version = file.read(2)
                read = {b"\1\0": read_array_header_1_0, b"\2\0": read_array_header_2_0}.get(version)
                if read is None:
                    raise InputError(
                        f"{path}: {info.filename} must be in version 1.0 or 2.0 of numpy's format; got bytes "
                        f"{version.hex(' ')}. Write it again with numpy.savez."
                    )
                shape, _, dtype = read(file)
                declared, held = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
            if not dtype.hasobject and (declared != held or not dtype.itemsize):
                raise InputError(
                    f"{path}: {info.filename} declares {shape} values of {dtype}, {declared:,} bytes; it holds "
                    f"{held:,}. It is damaged: write it again with numpy.savez."
                )


def _entry(path: Path, held: Any, keys: tuple[str, ...], split: str) -> tuple[NDArray[Any], bool]:
    found = next(((f"{key}_{split}", True) for key in keys if f"{key}_{split}" in held), None)
    found = found or next(((key, False) for key in keys if key in held), None)
    if found is not None:
        array = held[found[0]]
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path}: {found[0]} must be an array; it holds other bytes. Write it with numpy.savez.")
        return array, found[1]
    raise InputError(
        f"{path} must hold one of {', '.join(keys)} (or {keys[1]}_{split}); got {', '.join(held.files) or 'none'}"
    )


def _names(path: Path, names: NDArray[Any]) -> list[str]:
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(f"{path}: class_names must be one text per class; got shape {names.shape}, {names.dtype}")
    return [str(name) for name in names.tolist()]


def _channels_first(inputs: NDArray[Any]) -> NDArray[Any]:
    if inputs.dtype != np.uint8:
        return inputs
    if inputs.ndim == 3:
        return inputs[:, None]
    if inputs.ndim == 4 and inputs.shape[3] in (1, 3) and inputs.shape[1] not in (1, 3):
        return np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    return inputs
