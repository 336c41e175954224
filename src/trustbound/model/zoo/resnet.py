"""ResNet-18 for small pictures."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trustbound.errors import InputError
from trustbound.model.zoo.activation import activation_of


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, added to their input (through a 1×1 convolution where it shrinks)."""

    def __init__(self, before: int, after: int, stride: int, activation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.act1 = activation_of(activation)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
        self.act2 = activation_of(activation)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, before, H, W) → (B, after, H / stride, W / stride)."""
        hidden = self.act1(self.norm1(self.conv1(inputs)))
        outputs: Tensor = self.act2(self.norm2(self.conv2(hidden)) + self.shortcut(inputs))
        return outputs


def resnet18(
    input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, activation: str = "relu", width: int = 64
) -> nn.Sequential:
    """Four stages of two residual blocks, `width` to 8 · `width` channels, after a 3×3 stem without pooling.

    Reference   He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, 2016.
    Deviations  the stem of the CIFAR networks (3×3, stride 1, no pooling) instead of ImageNet's.
    """
    channels, height, breadth = input_shape
    if height % 8 or breadth % 8:
        raise InputError(f"resnet18 needs sides that are multiples of 8; got {height}×{breadth}")
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        activation_of(activation),
    ]
    before = width
    for stage in range(4):
        after = width * 2**stage
        layers += [
            ResidualBlock(before, after, 1 if stage == 0 else 2, activation),
            ResidualBlock(after, after, 1, activation),
        ]
        before = after
    return nn.Sequential(*layers, nn.AvgPool2d((height // 8, breadth // 8)), nn.Flatten(), nn.Linear(before, classes))
