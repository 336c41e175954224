"""Numpy archives of inputs and labels."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError
from trustbound.record.box import Box

INPUTS = ("inputs", "x", "images")
LABELS = ("labels", "y")


def read_npz(path: Path, split: str, *, box: Box | None = None) -> LabelledSet:
    """Inputs from the key `inputs`, `x` or `images`, labels from `labels` or `y`; nothing is unpickled.

    Splits      where keys end in `_train` and `_test` (`x_test`, `y_test`) the split's keys are read.
    Pictures    uint8 arrays (N, H, W) become (N, 1, H, W), and uint8 (N, H, W, 1 or 3) become channels first,
                unless the second axis is 1 or 3 itself; arrays of floats are taken as they are.
    Classes     a key `class_names` with one text per class is used.
    Raises      InputError: not an .npz, missing keys, pickled objects inside, or what LabelledSet refuses.
    """
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise InputError(f"{path} must be an .npz archive of arrays; got a single array")
        with opened as held:
            inputs, split_keys = _entry(path, held, INPUTS, split)
            labels, _ = _entry(path, held, LABELS, split)
            names = held["class_names"].tolist() if "class_names" in held else None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read as an .npz of plain arrays ({error}). "
            "Write it with numpy.savez; arrays of objects are pickles and are not loaded."
        ) from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    name = f"{path.stem}/{split}" if split_keys else path.stem
    return LabelledSet(_channels_first(inputs), labels, box=box or Box(0.0, 1.0), class_names=names, name=name)


def _entry(path: Path, held: Any, keys: tuple[str, ...], split: str) -> tuple[NDArray[Any], bool]:
    for key in keys:
        if (name := f"{key}_{split}") in held:
            return held[name], True
    for key in keys:
        if key in held:
            return held[key], False
    raise InputError(
        f"{path} must hold one of {', '.join(keys)} (or {keys[1]}_{split}); got {', '.join(held.files) or 'none'}"
    )


def _channels_first(inputs: NDArray[Any]) -> NDArray[Any]:
    if inputs.dtype != np.uint8:
        return inputs
    if inputs.ndim == 3:
        return inputs[:, None]
    if inputs.ndim == 4 and inputs.shape[3] in (1, 3) and inputs.shape[1] not in (1, 3):
        return np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    return inputs
