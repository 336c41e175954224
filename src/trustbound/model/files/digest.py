"""What tells one model from another: a digest of every number that it holds."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import torch
from torch import Tensor

#: Where an object lies in memory: different in each process.
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")


def add_to(digest: hashlib._Hash, value: Any) -> None:
    """Add a part of a state dict: a tensor, or what quantised and scripted modules keep beside their tensors."""
    if isinstance(value, Tensor):
        digest.update(f" {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu()
        if plain.is_quantized:
            digest.update(str(plain.qscheme()).encode())
            per_channel = plain.qscheme() not in (torch.per_tensor_affine, torch.per_tensor_symmetric)
            scales = (
                (plain.q_per_channel_scales(), plain.q_per_channel_zero_points())
                if per_channel
                else (plain.q_scale(), plain.q_zero_point())
            )
            add_to(digest, scales)
            plain = plain.int_repr()
        digest.update(plain.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, tuple | list):
        for part in value:
            add_to(digest, part)
    else:
        digest.update(_ADDRESS.sub("", repr(value)).encode())
