"""What is drawn by lot in an audit, and the keys of its random numbers."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from trustbound.data.labelled import LabelledSet
from trustbound.threat import Random


def derived_key(key: int, name: str) -> int:
    """A 63-bit key that depends on a key and a name.

    >>> derived_key(1, "a") != derived_key(1, "b")
    True
    """
    return int.from_bytes(hashlib.blake2b(f"{key}/{name}".encode(), digest_size=8).digest(), "big") >> 1


def drawn(key: int, name: str, data: LabelledSet, positions: Tensor, count: int) -> Tensor:
    """At most `count` of the positions, in their old order.

    Which ones depends on the key, the name and each example's own identity: neither on how the data is sorted nor
    on where an example stands in it.
    """
    if count >= len(positions):
        return positions
    ids = torch.as_tensor(data.indices, dtype=torch.int64)[positions]
    lot = Random(key, ids).stream(name).uniform((1,), restart=0, draw=0, dtype=torch.float64)[:, 0]
    return positions[lot.argsort(stable=True)[:count].sort().values]
