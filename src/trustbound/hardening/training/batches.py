"""Which examples a step sees: held-out rows, a seeded permutation for each epoch, augmentation.

Nothing here has a state: the rows of a step follow from (seed, attempt, epoch, step) alone, so a resumed run
needs no saved generator.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trustbound.data.stratified import draw_stratified
from trustbound.threat import Random


def key_of(*words: int | str) -> int:
    """A 63-bit key that is a function of its words.

    >>> key_of(0, "epoch", 1) == key_of(0, "epoch", 1) != key_of(0, "epoch", 2)
    True
    """
    text = "/".join(str(word) for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def hold_out(labels: Tensor, examples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out for the probe, at most a tenth of the set, class shares kept.

    >>> train, held = hold_out(torch.arange(100) % 10, 256, seed=0)
    >>> len(train), len(held)
    (90, 10)
    """
    count = min(examples, len(labels) // 10)
    if count < 1:
        return torch.arange(len(labels)), torch.arange(0)
    held = draw_stratified(labels.numpy(), count, seed)
    kept = np.setdiff1d(np.arange(len(labels)), held)
    return torch.from_numpy(kept), torch.from_numpy(held)


def epoch_batches(rows: Tensor, batch_size: int, key: int) -> tuple[Tensor, ...]:
    """The rows of an epoch in a new order, in as few batches as fit, of equal size give or take one.

    Equal sizes spare batch norm a last batch of one example, and every example the same weight.

    >>> [len(part) for part in epoch_batches(torch.arange(10), 4, key=1)]
    [4, 3, 3]
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(key))
    return rows[order].tensor_split(-(-len(rows) // batch_size))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes that keep the class: pictures (B, C, H, W) only.

    Parameters
        shift   every picture moves by −shift..shift pixels in both directions; what comes in is `fill`.
        flip    every second picture is mirrored left to right.

    >>> pictures = torch.rand(4, 1, 8, 8)
    >>> moved = Augmentation(shift=1).apply(pictures, Random(3, torch.arange(4)), fill=0.0)
    >>> moved.shape, bool(torch.equal(moved, pictures))
    (torch.Size([4, 1, 8, 8]), False)
    """

    shift: int = 0
    flip: bool = False

    def __bool__(self) -> bool:
        return self.shift > 0 or self.flip

    def apply(self, pictures: Tensor, random: Random, fill: float) -> Tensor:
        """The batch (B, C, H, W), changed; numbers depend on (key, example), never on neighbours."""
        count, _, height, width = pictures.shape
        if self.flip:
            mirrored = random.integers(2, (1, 1, 1), restart=0, draw=0) == 1
            pictures = torch.where(mirrored, pictures.flip(3), pictures)
        if self.shift:
            by = random.integers(2 * self.shift + 1, (2,), restart=0, draw=1)
            padded = F.pad(pictures, (self.shift,) * 4, value=fill)
            rows = by[:, :1] + torch.arange(height, device=by.device)
            columns = by[:, 1:] + torch.arange(width, device=by.device)
            example = torch.arange(count, device=by.device)[:, None, None]
            # (B, H, W, C): the indexed axes come first, the slice last.
            moved = padded[example, :, rows[:, :, None], columns[:, None, :]]
            pictures = moved.permute(0, 3, 1, 2).contiguous()
        return pictures
