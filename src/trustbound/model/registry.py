"""The architectures that have a name: torch-free rows that the loader, the CLI and the README read."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True, kw_only=True)
class ZooRow:
    """One architecture: who builds it and what it is built for unless told otherwise."""

    name: str
    target: str
    line: str
    input_shape: tuple[int, ...]
    classes: int = 10


ZOO = Registry(
    "an architecture",
    ZooRow(
        name="fc",
        target="trustbound.model.zoo.dense:fully_connected",
        line="fully connected, any hidden widths (200, 200)",
        input_shape=(1, 28, 28),
    ),
    ZooRow(
        name="cnn-small",
        target="trustbound.model.zoo.cnn:cnn_small",
        line="two strided convolutions and one hidden layer, the small network of the certification papers",
        input_shape=(1, 28, 28),
    ),
    ZooRow(
        name="cnn-large",
        target="trustbound.model.zoo.cnn:cnn_large",
        line="four convolutions and two hidden layers, the large network of the certification papers",
        input_shape=(1, 28, 28),
    ),
    ZooRow(
        name="resnet18",
        target="trustbound.model.zoo.resnet:resnet18",
        line="residual network with batch norm, 18 layers, stem for small pictures",
        input_shape=(3, 32, 32),
    ),
    ZooRow(
        name="wrn-28-10",
        target="trustbound.model.zoo.wide_resnet:wide_resnet",
        line="wide residual network, 28 layers, 10 times as wide (depth and width can be given)",
        input_shape=(3, 32, 32),
    ),
    ZooRow(
        name="vit-small",
        target="trustbound.model.zoo.vit:vit_small",
        line="small vision transformer: patches of 4, width 128, 6 blocks of 4 heads",
        input_shape=(3, 32, 32),
    ),
)
