"""What a forward and a backward cost on this model and machine, measured so that a busy moment decides nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.attacks import Attack
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.errors import UnsupportedError
from trustbound.metrics.margin import margin
from trustbound.model.wrapping import Model
from trustbound.tasks.view import right_answers
from trustbound.threat import Access

#: Pairs measured at most and at least: a median of three survives one disturbed pair.
PAIRS, LEAST = 25, 3

#: Seconds that measuring may take, unless the least number of pairs takes longer.
LIMIT = 1.0


#: Forwards that re-measure a success: afresh, at the model's dtype, and in float64.
CHECKS = 3


def at_most(attack: Attack) -> tuple[int, int]:
    """Forwards and backwards that an attack takes for an example at most, the checks of what it finds included.

    >>> from trustbound.attacks import build
    >>> at_most(build("pgd", steps=10)), at_most(build("square", steps=100))
    ((13, 10), (103, 0))
    """
    made, initial_forwards = attack.steps * attack.restarts, int(getattr(attack, "initial_forwards", 0))
    forwards = int(getattr(attack, "forwards_per_step", 1)) * made + initial_forwards + CHECKS
    return forwards, made + initial_forwards if attack.needs is Access.GRADIENTS else 0


def apart(attack: Attack) -> tuple[int, int, int]:
    """The same forwards in two: those that a step asks one after another, and those that it draws and asks at once.

    >>> from trustbound.attacks import build
    >>> apart(build("pgd", steps=10)), apart(build("hopskipjump", steps=2, draws=50))
    ((13, 0, 10), (1139, 120, 0))
    """
    forwards, backwards = at_most(attack)
    crowd = int(getattr(attack, "drawn_per_step", 0)) * attack.steps * attack.restarts
    return forwards - crowd, crowd, backwards


def calls(attack: Attack) -> int:
    """Calls of the model one after another, at most: what is drawn at once in a step is one of them.

    >>> from trustbound.attacks import build
    >>> calls(build("square", steps=100))
    103
    """
    alone, crowd, _ = apart(attack)
    return alone + (attack.steps * attack.restarts if crowd else 0)


@dataclass(frozen=True)
class Price:
    """Seconds of one forward per example; r, a backward to the inputs in forwards, 0 where there is none."""

    forward: float
    backward: float


def price(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    batch_size: int | None = None,
    key: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    limit: float = LIMIT,
) -> Price:
    """Time forwards, and forwards with a backward, in turn, on the batch size of the search.

    Each pair is measured back to back, so that a slow spell meets both halves of it; r is the median over the pairs
    of (forward and backward) / forward - 1, which a spell that meets only one half of a few pairs does not move. The
    first pair warms up and is not counted. Which half comes first alternates.

    Shapes      inputs (B, *F), labels (B,), of which the first batch is used.
    Cost        at most 26 pairs, `limit` seconds of them.

    >>> from trustbound.model.wrapping import wrap
    >>> price(wrap(torch.nn.Linear(4, 3)), torch.rand(8, 4), torch.zeros(8, dtype=torch.int64)).backward >= 0.0
    True
    """
    view, labels = right_answers(model.task, labels)
    with Oracle(
        model, examples=len(inputs), batch_size=batch_size, key=key, task="the measurement of costs", view=view
    ) as oracle:
        inputs, labels = inputs[: oracle.batch_size], labels[: oracle.batch_size]
        rows = torch.arange(len(inputs))

        def forward() -> None:
            oracle.outputs(inputs, rows)

        def both() -> None:
            oracle.gradient(inputs, rows, lambda outputs, part: -margin(outputs, labels[part]))

        def timed(call: Callable[[], None]) -> float:
            _wait(inputs.device)
            started = clock()
            call()
            _wait(inputs.device)
            return clock() - started

        forward()
        try:
            both()
        except UnsupportedError:  # no gradient to price
            return Price(statistics.median(timed(forward) for _ in range(LEAST)) / len(inputs), 0.0)
        started = clock()
        pairs: list[tuple[float, float]] = []
        while len(pairs) < PAIRS and (len(pairs) < LEAST or clock() - started < limit):
            if len(pairs) % 2:
                second = timed(both)
                pairs.append((timed(forward), second))
            else:
                first = timed(forward)
                pairs.append((first, timed(both)))
    ratio = statistics.median([together / alone for alone, together in pairs if alone > 0.0] or [1.0])
    return Price(statistics.median(alone for alone, _ in pairs) / len(inputs), max(0.0, ratio - 1.0))


def _wait(device: torch.device) -> None:
    """Until what was asked of an accelerator is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
