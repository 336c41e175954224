"""Tiny networks, honest and with one planted failure, for the tests of the checks."""

from functools import cache

import torch
from torch import Tensor, nn

from trustbound.audits.checks.context import After, Before, Evidence
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.threat import Threat


@cache
def blobs(count: int = 160) -> tuple[Tensor, Tensor]:
    """Four classes around four corners of the six-dimensional unit box, values k / 255."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 4
    centres = torch.tensor([[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]]).repeat(1, 3)
    inputs = (centres[labels] + 0.08 * torch.randn(count, 6, generator=generator)).clamp(0, 1)
    return (inputs * 255).round() / 255, labels


@cache
def _trained(kind: str) -> nn.Module:
    torch.manual_seed(0)
    inputs, labels = blobs()
    hidden: list[nn.Module] = {
        "relu": [nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()],
        "silu": [nn.Linear(6, 32), nn.SiLU()],
        "gelu": [nn.Linear(6, 32), nn.GELU()],
        "mish": [nn.Linear(6, 32), nn.Mish()],
        "norm": [nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU()],
        "dropout": [nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.4)],
    }[kind]
    net = nn.Sequential(*hidden, nn.Linear(32, 4)).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(120):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimiser.step()
    optimiser.zero_grad()
    return net.eval()


def net(kind: str = "relu") -> nn.Module:
    """A trained network of its own, so that no test spoils another's."""
    import copy

    return copy.deepcopy(_trained(kind))


HONEST = ("relu", "silu", "gelu", "norm", "dropout")


def before(module: nn.Module, threat: str = "linf:0.1", **changes: object) -> Before:
    """A context before the search; what the module declares is withheld."""
    inputs, labels = blobs()
    model = wrap(module, adaptation=Adaptation())
    return Before(**{"model": model, "inputs": inputs, "labels": labels, "threat": Threat.parse(threat), **changes})


def after(module: nn.Module, evidence: Evidence | None = None, threat: str = "linf:0.1", **changes: object) -> After:
    """A context behind the search."""
    known = before(module, threat, **changes)
    return After(
        model=known.model,
        inputs=known.inputs,
        labels=known.labels,
        threat=known.threat,
        evidence=evidence or Evidence(),
    )
