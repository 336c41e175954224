"""A small vision transformer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trustbound.errors import InputError
from trustbound.model.zoo.activation import activation_of


class Attention(nn.Module):
    """Multi-head self-attention over the patches."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, dim) → (B, T, dim)."""
        batch, count, dim = tokens.shape
        query, key, value = (
            self.qkv(tokens).reshape(batch, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        outputs: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, count, dim))
        return outputs


class Block(nn.Module):
    """Attention and a two-layer network, each on normalised tokens and added to them."""

    def __init__(self, dim: int, heads: int, ratio: int, activation: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, ratio * dim), activation_of(activation), nn.Linear(ratio * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, dim) → (B, T, dim)."""
        tokens = tokens + self.attention(self.norm1(tokens))
        outputs: Tensor = tokens + self.mlp(self.norm2(tokens))
        return outputs


class VisionTransformer(nn.Module):
    """Patches → linear embedding + learned position → blocks → norm → mean over patches → logits."""

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        activation: str,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        ratio: int,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        if height % patch or width % patch:
            raise InputError(f"`patch` must divide both sides; got {patch} for {height}×{width}")
        if dim % heads:
            raise InputError(f"`heads` must divide `dim`; got {heads} and {dim}")
        self.embed = nn.Conv2d(channels, dim, patch, stride=patch)
        self.position = nn.Parameter(torch.randn(1, (height // patch) * (width // patch), dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads, ratio, activation) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, channels, H, W) → logits (B, C)."""
        tokens = self.embed(inputs).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


def vit_small(
    input_shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    activation: str = "gelu",
    patch: int = 4,
    dim: int = 128,
    depth: int = 6,
    heads: int = 4,
    ratio: int = 2,
) -> nn.Module:
    """A vision transformer that trains on small pictures.

    Reference   Dosovitskiy et al., An Image is Worth 16×16 Words, 2021.
    Deviations  mean over patches instead of a class token; no dropout.
    """
    return VisionTransformer(input_shape, classes, activation, patch, dim, depth, heads, ratio)
