"""Counter-based randomness: every number is a function of (key, example, restart, draw), never of the batch.

A public call draws one 63-bit key from its generator. From there on nothing is sequential: example 17's
numbers are the same alone, in a batch of a thousand, in any order, before and after a crash.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.errors import InputError


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant


# Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014 (SplitMix64);
# the finaliser's constants are Stafford's variant 13.
_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Logical right shift, a new tensor: torch's own keeps the sign."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift(bits, 30)).mul_(_FIRST)
    bits.bitwise_xor_(_shift(bits, 27)).mul_(_SECOND)
    return bits.bitwise_xor_(_shift(bits, 31))


def new_key(generator: torch.Generator | None, seed: int | None = None) -> int:
    """Draw one 63-bit key; without a generator, the key is 0, so that silence is reproducible too.

    A seed stands for a fresh generator with it.

    >>> new_key(None, seed=1) == new_key(torch.Generator().manual_seed(1))
    True
    """
    if seed is not None:
        if generator is not None:
            raise InputError("`seed` stands for a generator of its own; got `generator` as well. Leave one out.")
        if type(seed) is not int or not 0 <= seed < 1 << 32:  # of more, torch takes the last 32 bits
            raise InputError(f"`seed` must be a whole number from 0 to 2^32 - 1, or None; got {seed!r}")
        generator = torch.Generator().manual_seed(seed)
    if generator is None:
        return 0
    if not isinstance(generator, torch.Generator):
        raise InputError(
            f"`generator` must be a torch.Generator, e.g. torch.Generator().manual_seed(0), or None; got {generator!r}"
        )
    return int(torch.randint(0, 2**63 - 1, (), generator=generator, device=generator.device))


@dataclass(frozen=True, eq=False)
class Random:
    """Counter-based randomness for a batch of examples.

    Parameters
        key     63-bit number, one per public call.
        ids     (B,) int64, one per example: its identity, whatever its neighbours.

    >>> random = Random(7, torch.tensor([3, 9]))
    >>> alone = Random(7, torch.tensor([9]))
    >>> torch.equal(random.uniform((4,), restart=0, draw=0)[1:], alone.uniform((4,), restart=0, draw=0))
    True
    """

    key: int
    ids: Tensor

    def _bits(self, count: int, restart: int, draw: int) -> Tensor:
        stream = _mix(torch.tensor(self.key, dtype=torch.int64, device=self.ids.device) + _GAMMA)
        for word in (restart, draw):
            stream = _mix((stream ^ (word * _GAMMA & 0x7FFFFFFFFFFFFFFF)) + _GAMMA)
        rows = _mix((stream ^ _mix(self.ids + _GAMMA)) + _GAMMA)
        counter = torch.arange(1, count + 1, dtype=torch.int64, device=self.ids.device)
        return _mix(rows[:, None] + counter[None, :] * _GAMMA)

    def uniform(self, shape: tuple[int, ...], *, restart: int, draw: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers in [0, 1), shape (B, *shape): 24 random bits each, 53 in float64."""
        bits = self._bits(math.prod(shape), restart, draw)
        kept, whole = (53, torch.float64) if dtype == torch.float64 else (24, torch.float32)
        values = _shift(bits, 64 - kept).to(whole).mul_(2.0**-kept)  # exact: as many bits as the mantissa holds
        return values.to(dtype).reshape(len(self.ids), *shape)

    def normal(self, shape: tuple[int, ...], *, restart: int, draw: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers, shape (B, *shape), by Box and Muller in float64."""
        count = math.prod(shape)
        pairs = self.uniform((2, count), restart=restart, draw=draw, dtype=torch.float64)
        radius = torch.sqrt(-2.0 * torch.log1p(-pairs[:, 0]))
        values = radius * torch.cos(2.0 * math.pi * pairs[:, 1])
        return values.to(dtype).reshape(len(self.ids), *shape)

    def integers(self, high: int, shape: tuple[int, ...], *, restart: int, draw: int) -> Tensor:
        """Whole numbers in 0..high - 1, shape (B, *shape), int64."""
        values = self.uniform(shape, restart=restart, draw=draw, dtype=torch.float64)
        return (values * high).to(torch.int64).clamp_(max=high - 1)

    def stream(self, name: str) -> Random:
        """Independent numbers for the same examples, told apart by a name."""
        digest = hashlib.blake2b(f"{self.key}/{name}".encode(), digest_size=8).digest()
        return Random(int.from_bytes(digest, "big") >> 1, self.ids)

    def select(self, rows: Tensor) -> Random:
        """The same numbers for some of the examples."""
        return Random(self.key, self.ids[rows])
