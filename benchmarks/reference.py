"""The reference: AutoAttack put together from torchattacks with its published parameters, every evaluation counted.

torchattacks' own AutoAttack class runs its gradient attacks with 10 steps. Here APGD with CE, targeted APGD and
multi-targeted FAB run 100 steps on all 9 targets, Square 5,000 queries, one after another on what is left.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


class Counted(nn.Module):
    """A model that counts its forwards and backwards, one per row."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = 0
        self.backwards = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Count the rows; those whose gradient is asked for count again when it flows."""
        self.forwards += len(inputs)
        logits = self.model(inputs)
        if logits.requires_grad:
            logits.register_hook(self._flowed)
        return logits

    def _flowed(self, gradient: Tensor) -> Tensor:
        self.backwards += int((gradient.flatten(1) != 0).any(dim=1).sum())
        return gradient


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the reference left unbroken, and its price after each attack."""

    unbroken: Tensor
    trail: list[dict[str, Any]] = field(default_factory=list)

    @property
    def forwards(self) -> int:
        """Of all attacks."""
        return sum(step["forwards"] for step in self.trail)

    @property
    def backwards(self) -> int:
        """Of all attacks."""
        return sum(step["backwards"] for step in self.trail)

    @property
    def seconds(self) -> float:
        """Of all attacks."""
        return sum(step["seconds"] for step in self.trail)


def autoattack(
    model: nn.Module, inputs: Tensor, labels: Tensor, norm: str, epsilon: float, seed: int, batch_size: int = 500
) -> Reference:
    """Run the four attacks in their published order on correctly classified examples."""
    import torchattacks

    counted = Counted(model).eval()
    classes = model(inputs[:1]).shape[1]
    name = {"linf": "Linf", "l2": "L2"}[norm]
    attacks = {
        "apgd-ce": torchattacks.APGD(counted, norm=name, eps=epsilon, steps=100, seed=seed, loss="ce"),
        "apgd-t": torchattacks.APGDT(counted, norm=name, eps=epsilon, steps=100, seed=seed, n_classes=classes),
        "fab-t": torchattacks.FAB(
            counted, norm=name, eps=epsilon, steps=100, seed=seed, multi_targeted=True, n_classes=classes
        ),
        "square": torchattacks.Square(counted, norm=name, eps=epsilon, n_queries=5000, seed=seed),
    }
    with torch.no_grad():
        left = torch.cat([model(part) for part in inputs.split(batch_size)]).argmax(dim=1) == labels
    trail = []
    for title, attack in attacks.items():
        counted.forwards = counted.backwards = 0
        started = time.perf_counter()
        for rows in left.nonzero()[:, 0].split(batch_size):
            adversarial = attack(inputs[rows], labels[rows]).detach()
            with torch.no_grad():
                broken = model(adversarial).argmax(dim=1) != labels[rows]
            change = (adversarial - inputs[rows]).flatten(1)
            size = change.abs().amax(dim=1) if norm == "linf" else change.norm(dim=1)
            inside = (
                (size <= epsilon + 1e-5) & (adversarial >= 0).flatten(1).all(1) & (adversarial <= 1).flatten(1).all(1)
            )
            left[rows[broken & inside]] = False
        trail.append(
            {
                "attack": title,
                "unbroken": int(left.sum()),
                "forwards": counted.forwards,
                "backwards": counted.backwards,
                "seconds": time.perf_counter() - started,
            }
        )
        print(f"  reference seed {seed}: {trail[-1]}", flush=True)
    return Reference(unbroken=left, trail=trail)
