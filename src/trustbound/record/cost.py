"""What an answer cost, in model evaluations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Counted model evaluations, one per example (a batch of 64 counts 64), and wall-clock seconds.

    `queries` are the forwards that an adversary without gradients asked for.

    >>> Cost(forwards=10, backwards=10).units(backward=3.0)
    40.0
    """

    forwards: int = 0
    backwards: int = 0
    queries: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            self.queries + other.queries,
            self.seconds + other.seconds,
        )

    def units(self, backward: float) -> float:
        """Forwards + r · backwards, with r measured in the same run."""
        return self.forwards + backward * self.backwards
