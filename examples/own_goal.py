"""A goal and a loss of your own: what counts as success, and what is climbed towards it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import trustbound as tb
from trustbound.threat import Access, Misclassify, Objective, Threat


@dataclass(frozen=True)
class Vanish:
    """The logit of the true class falls below a value: an alarm that is silenced, whichever class wins."""

    below: float
    name = "vanish"
    silenced: ClassVar[bool] = True

    def bind(self, labels: Tensor, classes: int) -> Objective:
        """Every example is concerned."""
        return Objective(self, labels)

    def concerns(self, labels: Tensor) -> Tensor:
        """All."""
        return torch.ones_like(labels, dtype=torch.bool)

    def margin(self, outputs: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        """Below zero when reached: attacks climb down this."""
        return outputs.gather(1, labels[:, None])[:, 0] - self.below


def towards_the_last(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """One number for each example, larger for the adversary."""
    return logits[:, -1] - logits.gather(1, labels[:, None])[:, 0]


def main() -> None:
    """A linear network whose logits are its inputs: to push 0.9 below 0.2 takes 0.7."""
    model = tb.wrap(torch.nn.Linear(3, 3, bias=False))
    model.module.weight.data = torch.eye(3)
    inputs, labels = torch.tensor([[0.9, 0.1, 0.5]] * 3), torch.zeros(3, dtype=torch.int64)
    for size in (0.69, 0.71):
        ball = Threat.parse(f"linf:{size}").perturbations
        found = tb.attack("pgd", model, inputs, labels, Threat(ball, Vanish(0.2), Access.GRADIENTS))
        print(f"l∞ {size}: {int(found.success.sum())} of 3 vanish")
    ball = Threat.parse("linf:0.25").perturbations
    found = tb.attack("pgd", model, inputs, labels, Threat(ball, Misclassify()), loss=towards_the_last)
    print(f"towards the last class within 0.25: {int((found.prediction == 2).sum())} of 3")


if __name__ == "__main__":
    main()
