"""Wide residual networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trustbound.errors import InputError
from trustbound.model.zoo.activation import activation_of


class WideBlock(nn.Module):
    """Norm, activation, convolution, twice; the input, or its activation through a 1×1 convolution, is added."""

    def __init__(self, before: int, after: int, stride: int, activation: str) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.act1 = activation_of(activation)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.act2 = activation_of(activation)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        same = stride == 1 and before == after
        self.shortcut = None if same else nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, before, H, W) → (B, after, H / stride, W / stride)."""
        active = self.act1(self.norm1(inputs))
        carried = inputs if self.shortcut is None else self.shortcut(active)
        outputs: Tensor = carried + self.conv2(self.act2(self.norm2(self.conv1(active))))
        return outputs


def wide_resnet(
    input_shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    activation: str = "relu",
    depth: int = 28,
    width: int = 10,
) -> nn.Sequential:
    """Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels.

    Reference   Zagoruyko and Komodakis, Wide Residual Networks, 2016; without dropout.
    """
    channels, height, breadth = input_shape
    if depth < 10 or (depth - 4) % 6:
        raise InputError(f"`depth` must be 10, 16, 22, 28, … (6 n + 4); got {depth}")
    if height % 4 or breadth % 4:
        raise InputError(f"wrn needs sides that are multiples of 4; got {height}×{breadth}")
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=False)]
    before = 16
    for stage in range(3):
        after = 16 * 2**stage * width
        for block in range((depth - 4) // 6):
            layers.append(WideBlock(before, after, 2 if stage and block == 0 else 1, activation))
            before = after
    network = nn.Sequential(
        *layers,
        nn.BatchNorm2d(before),
        activation_of(activation),
        nn.AvgPool2d((height // 4, breadth // 4)),
        nn.Flatten(),
        nn.Linear(before, classes),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
