"""The networks that the benchmarks attack: trained once on real data, kept in `benchmarks/weights/` (ignored by git).

MNIST comes from `$TRUSTBOUND_DATA/mnist`, colour photographs from `$TRUSTBOUND_DATA/cifar10-jpeg`: CIFAR-10 encoded
anew as JPEG, so figures on it do not compare with published CIFAR-10 ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import trustbound as tb
from trustbound.hardening import Recipe
from trustbound.model import build

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network: its architecture, what it is trained on and how, and the threat it is examined under."""

    name: str
    architecture: str
    data: str
    threat: str
    recipe: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)


NETWORKS = {
    network.name: network
    for network in (
        Network(
            name="mnist-cnn",
            architecture="cnn-small",
            data="mnist",
            threat="linf:0.1",
            recipe={"epochs": 3, "batch_size": 128, "learning_rate": 3e-3},
        ),
        Network(
            name="mnist-cnn-hardened",
            architecture="cnn-small",
            data="mnist",
            threat="linf:0.3",
            recipe={
                "objective": "fgsm-rs",
                "threat": "linf:0.3",
                "epochs": 10,
                "batch_size": 128,
                "learning_rate": 5e-3,
                "schedule": "cyclic",
            },
        ),
        Network(
            name="mnist-fc",
            architecture="fc",
            data="mnist",
            threat="linf:0.05",
            recipe={"epochs": 5, "batch_size": 128, "learning_rate": 2e-3},
            arguments={"widths": [200, 200]},
        ),
        Network(
            name="colour-vit",
            architecture="vit-small",
            data="cifar10-jpeg",
            threat="linf:4/255",
            recipe={
                "objective": "fgsm-rs",
                "threat": "linf:4/255",
                "epochs": 3,
                "batch_size": 128,
                "learning_rate": 2e-3,
            },
            arguments={"patch": 4, "dim": 64, "depth": 3, "heads": 4},
        ),
        Network(
            name="colour-resnet-silu",
            architecture="wrn-28-10",
            data="cifar10-jpeg",
            threat="linf:4/255",
            recipe={
                "objective": "fgsm-rs",
                "threat": "linf:4/255",
                "epochs": 2,
                "batch_size": 128,
                "learning_rate": 4e-3,
            },
            arguments={"depth": 10, "width": 1, "activation": "silu"},
        ),
    )
}


def data(network: Network, split: str, limit: int | None = None) -> tb.LabelledSet:
    """The network's data."""
    if network.data == "cifar10-jpeg":
        archive = Path(os.environ["TRUSTBOUND_DATA"]) / "cifar10-jpeg" / "cifar10-jpeg.tar.gz"
        return tb.load_data(str(archive), split=split, limit=limit)
    return tb.load_data(network.data, split=split, limit=limit)


def load(name: str) -> tb.Model:
    """A trained network, trained now if it never was."""
    network = NETWORKS[name]
    path = WEIGHTS / f"{name}.safetensors"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        train(network, path)
    return tb.load_model(f"{network.architecture}:{path}")


def train(network: Network, path: Path) -> None:
    """Train a network and write its weights."""
    examples = data(network, "train")
    torch.manual_seed(0)
    module = build(network.architecture, **{"input_shape": list(examples.shape), "classes": 10, **network.arguments})
    model = tb.wrap(module, box=(0.0, 1.0), classes=10)
    trained = tb.train(
        model, examples, Recipe(**network.recipe), validation=data(network, "test", 2000), run=path.with_suffix("")
    )
    last = trained.history[-1]
    print(
        f"{network.name}: clean {last.validation_accuracy:.4f}, probe {last.probe_robust_accuracy}, "
        f"{[event.text for event in trained.events]}",
        flush=True,
    )
    tb.save_model(trained.model, path)


if __name__ == "__main__":
    import sys

    for name in sys.argv[1:] or NETWORKS:
        load(name)
