"""The idx files of MNIST and Fashion-MNIST, compressed or not."""

from __future__ import annotations

import hashlib
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustbound.data.labelled import LabelledSet
from trustbound.data.registry import PublishedFile, PublishedSet
from trustbound.errors import InputError
from trustbound.record.box import Box
from trustbound.record.disk.unpacking import DAMAGED, refuse_bomb, unpacked


def read_idx(path: Path, content: str | None = None) -> NDArray[np.uint8]:
    """Read one idx file of unsigned bytes.

    Parameters  content: expected MD5 of the *uncompressed* bytes, so that a recompressed copy still passes.
    Raises      InputError: no idx file, truncated, trailing bytes, or other content than expected.
    Reference   the format description on the MNIST page: 0, 0, type, axes, sizes (big-endian), values.
    """
    try:
        with unpacked(path) as file:
            raw = file.read(4)
            if len(raw) < 4 or raw[:3] != b"\0\0\x08":
                raise InputError(
                    f"{path} must be an idx file of unsigned bytes (first bytes 00 00 08); "
                    f"got {raw[:4].hex(' ') or 'an empty file'}. Fetch it again."
                )
            axes = raw[3]
            start = 4 + 4 * axes
            raw += file.read(4 * axes)
            sizes = struct.unpack(f">{axes}I", raw[4:]) if len(raw) == start else ()
            wanted = start + math.prod(sizes)
            # By what it declares, before the values are unpacked; never more of them than that.
            refuse_bomb(path, path.stat().st_size, wanted)
            raw += file.read(wanted - start + 1)
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{path} is truncated or damaged ({error}). Delete it and fetch it again.") from error
    if axes == 0 or len(sizes) != axes or len(raw) != wanted:
        came = f"{len(raw)}" if len(raw) <= wanted else "more"
        raise InputError(
            f"{path} is truncated or damaged: its header promises {wanted} bytes; got {came}. "
            "Delete it and fetch it again."
        )
    if content is not None and (came := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != content:
        raise InputError(
            f"{path} must hold the published file (MD5 of the uncompressed bytes {content}); got {came}. "
            "It is another data set under the same file name, or it was changed: move it away."
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(sizes)


def read_idx_pair(paths: dict[str, Path], row: PublishedSet, split: str, *, box: Box | None = None) -> LabelledSet:
    """Pictures (N, 1, H, W), kept as uint8, and labels from the two files of one split."""
    arrays: dict[str, Any] = {}
    file: PublishedFile
    for file in row.files_of(split):
        arrays[file.role] = read_idx(paths[file.name], file.content)
    pictures, labels = arrays["pictures"], arrays["labels"]
    if pictures.ndim != 3 or labels.ndim != 1 or len(pictures) != len(labels):
        raise InputError(
            f"{row.name} needs pictures (N, H, W) and labels (N,); got shapes {pictures.shape} and {labels.shape}"
        )
    return LabelledSet(
        pictures[:, None].copy(),
        labels.astype(np.int64),
        box=box or Box(0.0, 1.0),
        class_names=row.class_names,
        name=f"{row.name}/{split}",
    )
