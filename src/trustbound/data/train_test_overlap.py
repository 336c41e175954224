"""Which test examples were already in the training set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError


def overlap(train: LabelledSet, test: LabelledSet) -> Tensor:
    """Rows of `test` whose input occurs, value for value, among the inputs of `train`.

    Method      one 128-bit digest for each row of float32 values in the box, so that a set kept as uint8 and
                the same set kept as floats agree. Labels are not compared; near-duplicates are not found.
    Cost        one pass over both sets, 16 bytes per training row.
    Raises      InputError when the two sets differ in shape or box: equal values would not mean equal inputs.

    >>> train = LabelledSet(torch.eye(3), [0, 1, 2])
    >>> test = LabelledSet(torch.tensor([[0.5, 0.0, 0.0], [0.0, 1.0, 0.0]]), [0, 1])
    >>> overlap(train, test)
    tensor([1])
    """
    if train.shape != test.shape or train.box != test.box:
        raise InputError(
            f"both sets must have one shape and one box; got {train.shape} in {train.box} and "
            f"{test.shape} in {test.box}"
        )
    known = set(_digests(train))
    found = [row for row, digest in enumerate(_digests(test)) if digest in known]
    return torch.tensor(found, dtype=torch.int64)


def _digests(data: LabelledSet) -> Iterator[bytes]:
    for start in range(0, len(data), 4096):
        part = data.batch(slice(start, start + 4096)) + 0.0  # -0.0 becomes 0.0: equal values, equal bytes
        for row in np.ascontiguousarray(part.flatten(1).numpy()):
            yield hashlib.blake2b(row.data, digest_size=16).digest()
