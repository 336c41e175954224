"""Is the network still robust? A small PGD attack on held-out training examples after each epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from trustbound.attacks import attack
from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError
from trustbound.hardening.training.modes import measuring
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.threat import Threat


@dataclass(frozen=True)
class Probed:
    """What a probe saw: accuracy clean and under PGD on the held-out examples, and what it cost."""

    clean: float
    robust: float
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Probe:
    """PGD on held-out training examples after each epoch, and the rule that calls a collapse.

    Parameters
        steps       of PGD, from one random start, the same one in every epoch.
        examples    held out of training; at most a tenth of the set is taken.
        drop        fall of robust accuracy below the best epoch's that counts as a collapse.
        retries     how often the collapsed epoch is repeated, each time at half the learning rate and with
                    other random numbers, before training stops at the last good epoch.

    Rule        With p the best probe so far and q this one's, on n examples: collapse when p ≥ drop and
                p − q > max(min(drop, p / 2), 3 √(2 m (1 − m) / n)), m = (p + q) / 2. Below p = drop there is
                nothing to lose yet. The second term is three standard errors of a difference: noise alone
                trips the rule in fewer than one pair of epochs in 700.
    Reference   Wong, Rice and Kolter, Fast is better than free, 2020 (2001.03994), section 5.4: stop when
                robust accuracy on a training minibatch falls by 20 points.
    Deviations  compares with the best epoch, not the previous one; held-out examples; rolls back and tries
                again before it stops.

    >>> probe = Probe()
    >>> probe.collapsed(0.05, best=0.80, examples=256), probe.collapsed(0.75, best=0.80, examples=256)
    (True, False)
    """

    steps: int = 10
    examples: int = 256
    drop: float = 0.2
    retries: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing."""
        if self.steps < 1 or self.examples < 1 or self.retries < 0 or not 0.0 < self.drop <= 1.0:
            raise InputError(
                "a probe needs steps ≥ 1, examples ≥ 1, retries ≥ 0 and drop in (0, 1]; got "
                f"{self.steps}, {self.examples}, {self.retries} and {self.drop}. To train without one, pass "
                "probe=None."
            )

    def collapsed(self, robust: float, *, best: float, examples: int) -> bool:
        """Whether robust accuracy has fallen too far to be noise."""
        middle = (robust + best) / 2.0
        noise = 3.0 * math.sqrt(2.0 * middle * (1.0 - middle) / examples)
        return best >= self.drop and best - robust > max(min(self.drop, best / 2.0), noise)

    def measure(self, model: Model, held: LabelledSet, threat: Threat, seed: int) -> Probed:
        """Accuracy clean and under PGD, in eval mode; the model comes back in the modes that it had."""
        with measuring(model):
            found = attack(
                "pgd",
                model,
                held.inputs,
                held.labels,
                threat,
                generator=torch.Generator().manual_seed(seed),
                steps=self.steps,
            )
        wrong = found.success & (found.size == 0.0)
        return Probed(
            clean=1.0 - float(wrong.double().mean()),
            robust=1.0 - float(found.success.double().mean()),
            cost=found.cost,
        )


def accuracy(model: Model, data: LabelledSet, batch_size: int = 512) -> float:
    """Share classified correctly in eval mode; the model comes back in the modes that it had.

    >>> from trustbound.model.wrapping import wrap
    >>> data = LabelledSet(torch.rand(6, 4), [0, 1, 0, 1, 0, 1])
    >>> 0.0 <= accuracy(wrap(torch.nn.Linear(4, 2)), data) <= 1.0
    True
    """
    correct = 0
    with measuring(model), torch.no_grad():
        for first in range(0, len(data), batch_size):
            rows = slice(first, first + batch_size)
            logits = model(data.batch(rows).to(model.device))
            correct += int((logits.argmax(dim=1).cpu() == data.labels[rows]).sum())
    return correct / len(data)
