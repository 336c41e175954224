"""About what the checks will take: forwards and backwards, before any of them has run."""

from __future__ import annotations

from collections.abc import Sequence

from trustbound.attacks import Attack
from trustbound.audits.checks.gradient_attacks import abridged
from trustbound.audits.checks.saturation import LogitScaleInvariance
from trustbound.audits.planning.pricing import at_most

#: Forwards and backwards for an example of the sample, measured on convolutional networks: those before the search, of
#: which the model's own run under one threat alone, and those after it but the one that repeats the search.
BEFORE, AFTER = (102.0, 39.0), (214.0, 174.0)

#: Examples that the checks draw.
SAMPLE = 64


def expected(when: str, attacks: Sequence[Attack], examples: int, standing: int, share: float = 1.0) -> tuple[int, int]:
    """Forwards and backwards of the checks "before" or "after" a search with gradient attacks.

    Parameters
        standing    examples that the search is expected to leave neither broken nor proven.
        share       of the examples that checks draw, that they draw.

    >>> expected("before", [], 1000, 500)
    (6528, 2496)
    """
    forwards, backwards = (min(examples, share * SAMPLE) * each for each in (BEFORE if when == "before" else AFTER))
    if when == "after":
        repeated = LogitScaleInvariance()
        # At its own scale and the two outermost ones.
        runs = [at_most(attack) for attack in abridged(attacks, repeated.steps)]
        sample = 3 * min(standing, share * repeated.examples)
        forwards += sample * sum(run[0] for run in runs)
        backwards += sample * sum(run[1] for run in runs)
    return round(forwards), round(backwards)
