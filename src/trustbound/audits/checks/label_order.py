"""Is the order in which the labels count the classes the model's order? A test that honest mistakes do not fail.

A network that is wrong here and there has a best order of classes other than its own on any few examples: with a
thousand classes the best of all orders fits noise. So no order is judged on the examples that chose it, and an order
must be better than the given one by more than a confusion of classes explains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trustbound.audits.checks.significance import LEVEL, excess_by_chance, holm

#: A wrong order is right more often than the given one, on the classes that it moves, by more than this factor.
ODDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """Another order of (some of) the classes, and how it does on examples that did not choose it.

    Parameters
        name            what it is, in words.
        moved           (label, class) pairs that it changes.
        gained, lost    examples that it alone, that the given order alone gets right, of `total`.
        chance          probability of such an excess where the given order is as good; `strong` the same where
                        the other order is `ODDS` times as good. Both corrected for all orders tried.
    """

    name: str
    moved: tuple[tuple[int, int], ...]
    gained: int
    lost: int
    total: int
    chance: float = 1.0
    strong: float = 1.0

    @property
    def gain(self) -> float:
        """Points of accuracy."""
        return (self.gained - self.lost) / max(self.total, 1)


def better_orders(predictions: Tensor, labels: Tensor, classes: int, generator: torch.Generator) -> list[Order]:
    """Orders that fit the labels better than the given one and are no chance, best first.

    Parameters
        predictions, labels     (N,) int64 on the CPU, below `classes`.

    Tried       (1) the usual mistakes, on all examples: off by one, reversed, numbers sorted as text. (2) What one half
                of the examples suggests, judged on the other half: its best order of classes (Hungarian method),
                taken apart into cycles, of which those go on that are clearly better there and that none of their
                own classes speaks against. Each of the two families has half of the level, corrected within (Holm).
    """
    fixed = [
        _judged(name, order, predictions, labels)
        for name, order in usual_mistakes(classes).items()
        if bool((order[labels] != labels).any())
    ]
    half = _halves(labels, generator)
    found = [
        _judged("found on the other half", cycle, predictions[~half], labels[~half])
        for cycle in _suggested(predictions[half], labels[half], classes)
    ]
    kept = [order for family in (fixed, found) for order in _corrected(family) if order.chance < LEVEL]
    return sorted(kept, key=lambda order: (-order.gain, order.chance))


def usual_mistakes(classes: int) -> dict[str, Tensor]:
    """How labels and classes are usually mixed up: name → order (C,), the class that a label would mean.

    >>> usual_mistakes(3)["reversed"].tolist()
    [2, 1, 0]
    >>> usual_mistakes(12)["numbers from 0 sorted as text"].tolist()
    [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    same = torch.arange(classes)
    orders = {"off by one (class = label + 1)": same.roll(-1), "off by one (class = label - 1)": same.roll(1)}
    orders["reversed"] = same.flip(0)
    for first in (0, 1):
        as_text = torch.tensor(sorted(range(classes), key=lambda number: str(number + first)))
        orders[f"numbers from {first} sorted as text"] = as_text
        orders[f"numbers from {first} sorted as text, the other way"] = as_text.argsort()
    kept: dict[str, Tensor] = {}
    for name, order in orders.items():
        if not any(torch.equal(order, other) for other in (same, *kept.values())):
            kept[name] = order
    return kept


def best_order(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The order of most right answers, (C,): the class that each label would mean; ties keep the given order.

    Reference   Kuhn, The Hungarian method for the assignment problem, 1955 (scipy's implementation).

    >>> best_order(torch.tensor([1, 0, 1]), torch.tensor([0, 1, 0]), 3).tolist()
    [1, 0, 2]
    """
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels.numpy(), predictions.numpy()), 1)
    _, columns = linear_sum_assignment(-(confusion * (classes + 1) + np.eye(classes, dtype=np.int64)))
    return torch.from_numpy(columns.astype(np.int64))


def _halves(labels: Tensor, generator: torch.Generator) -> Tensor:
    """(N,) bool: of each class one half at random; of an odd one, the examples left over in turn here and there."""
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    half = torch.zeros(len(labels), dtype=torch.bool)
    half[by_class[::2]] = True
    return half


def _suggested(predictions: Tensor, labels: Tensor, classes: int) -> list[Tensor]:
    """Cycles of the best order that are clearly better on these examples, each as an order (C,) of its own."""
    order = best_order(predictions, labels, classes)
    same = torch.arange(classes)
    cycles = []
    left = set((order != same).nonzero()[:, 0].tolist())
    while left:
        cycle, label = same.clone(), min(left)
        while label in left:
            left.remove(label)
            cycle[label] = order[label]
            label = int(order[label])
        if _clear(cycle, predictions, labels, classes):
            cycles.append(cycle)
    return cycles


def _clear(cycle: Tensor, predictions: Tensor, labels: Tensor, classes: int) -> bool:
    """Whether a cycle is better here beyond chance, and none of its labels is clearly better as given.

    In a wrong order every label's answers have moved. Where a network takes one class for another, and never the other
    for the one, some label of the cycle is right as it is.
    """
    new, old = cycle[labels] == predictions, labels == predictions
    moved = cycle[labels] != labels
    gained = torch.bincount(labels[new & moved], minlength=classes)
    lost = torch.bincount(labels[old & moved], minlength=classes)
    if excess_by_chance(int(gained.sum()), int(lost.sum())) >= LEVEL:
        return False
    contradicted = (lost > gained).nonzero()[:, 0].tolist()
    return all(excess_by_chance(int(lost[label]), int(gained[label])) >= LEVEL for label in contradicted)


def _judged(name: str, order: Tensor, predictions: Tensor, labels: Tensor) -> Order:
    new, old = order[labels] == predictions, labels == predictions
    moved = (order != torch.arange(len(order))).nonzero()[:, 0].tolist()
    return Order(
        name=name,
        moved=tuple((label, int(order[label])) for label in moved),
        gained=int((new & ~old).sum()),
        lost=int((old & ~new).sum()),
        total=len(labels),
    )


def _corrected(family: list[Order]) -> list[Order]:
    """The same with their probabilities, corrected within the family; half of the level is each family's."""
    chances = holm([min(1.0, 2 * excess_by_chance(order.gained, order.lost)) for order in family])
    strong = holm([min(1.0, 2 * excess_by_chance(order.gained, order.lost, ODDS)) for order in family])
    return [
        Order(
            name=order.name,
            moved=order.moved,
            gained=order.gained,
            lost=order.lost,
            total=order.total,
            chance=chance,
            strong=sure,
        )
        for order, chance, sure in zip(family, chances, strong, strict=True)
    ]
