"""What an answer cost, in model evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace

#: What a model is asked for: its clean answers; a search; to measure again what was found; whether an input of the data
#: may be started from; checks of the evaluation; how sure it is of what was found; votes under noise for a certificate.
PURPOSES = ("clean", "search", "recheck", "donors", "checks", "uncertainty", "proof")


@dataclass(frozen=True)
class Spent:
    """Evaluations for one purpose: forwards by what was looked at, each draw counted, and backwards.

    Parameters
        decisions, scores   forwards of which the class alone, or all outputs, were seen.
        gradients           forwards with a backward behind them, or whose activations were seen.
        detector            answers of a declared detector, a forward each.

    >>> (Spent(scores=3, detector=1) + Spent(gradients=2, backwards=2)).forwards
    6
    """

    decisions: int = 0
    scores: int = 0
    gradients: int = 0
    detector: int = 0
    backwards: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    @property
    def forwards(self) -> int:
        """All of them."""
        return self.decisions + self.scores + self.gradients + self.detector


@dataclass(frozen=True)
class Cost:
    """Counted model evaluations, one per example (a batch of 64 counts 64), and wall-clock seconds.

    `queries` are the forwards that an adversary without gradients asked for. `purposes` says what the passes were for
    (`PURPOSES`); where it sums to less, an earlier version counted the rest.

    >>> Cost(forwards=10, backwards=10).units(backward=3.0)
    40.0
    """

    forwards: int = 0
    backwards: int = 0
    queries: int = 0
    seconds: float = 0.0
    purposes: Mapping[str, Spent] = field(default_factory=dict, hash=False)

    def __add__(self, other: Cost) -> Cost:
        names = [name for name in PURPOSES if name in self.purposes or name in other.purposes]
        return Cost(
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            self.queries + other.queries,
            self.seconds + other.seconds,
            {name: self.purposes.get(name, Spent()) + other.purposes.get(name, Spent()) for name in names},
        )

    def units(self, backward: float) -> float:
        """Forwards + r · backwards, with r measured in the same run."""
        return self.forwards + backward * self.backwards

    def all_for(self, purpose: str) -> Cost:
        """The same, all of it for one purpose.

        >>> Cost(forwards=2, purposes={"search": Spent(scores=2)}).all_for("checks").purposes
        {'checks': Spent(decisions=0, scores=2, gradients=0, detector=0, backwards=0)}
        """
        told = sum(self.purposes.values(), Spent())
        rest = Spent(scores=self.forwards - told.forwards, backwards=self.backwards - told.backwards)
        return replace(self, purposes={purpose: told + rest} if self.forwards else {})
