"""Is it chance? Exact tests for counts of examples, and the one correction for several of them."""

from __future__ import annotations

from collections.abc import Sequence

from trustbound.errors import InputError

#: Below this probability, within one check and all its tests together, a count is no chance.
LEVEL = 0.05


def excess_by_chance(only_first: int, only_second: int, odds: float = 1.0) -> float:
    """Probability of such an excess where the first is at most `odds` times as strong (exact, one-sided).

    Parameters
        only_first, only_second     examples broken (or answered) by one of the two and not by the other.
        odds                        1 asks whether the first is better at all, 2 whether it is twice as good.

    Reference   McNemar, Note on the sampling error of the difference between correlated proportions,
                Psychometrika 1947; the exact binomial form.

    >>> excess_by_chance(5, 0), excess_by_chance(0, 0)
    (0.03125, 1.0)
    """
    if only_first < 0 or only_second < 0:
        raise InputError(f"counts must be ≥ 0; got {only_first} and {only_second}")
    return share_by_chance(only_first, only_first + only_second, odds / (1.0 + odds))


def share_by_chance(count: int, total: int, share: float) -> float:
    """Probability of so many of `total` where each has the probability `share` (exact, one-sided).

    >>> round(share_by_chance(2, 2, 0.05), 6), share_by_chance(0, 9, 0.05)
    (0.0025, 1.0)
    """
    if not 0 <= count <= total:
        raise InputError(f"a count must lie in 0..{total}; got {count}")
    if count == 0:
        return 1.0
    from scipy.stats import binom

    return float(binom.sf(count - 1, total, share))


def holm(chances: Sequence[float]) -> tuple[float, ...]:
    """Probabilities corrected for being several: each is comparable with one level for all of them.

    Reference   Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
                Statistics 1979. Holds however the tests depend on each other.

    >>> holm([0.01, 0.5, 0.02])
    (0.03, 0.5, 0.04)
    """
    order = sorted(range(len(chances)), key=lambda place: chances[place])
    corrected = [1.0] * len(chances)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[place]))
        corrected[place] = largest
    return tuple(corrected)


def severest(count: int, total: int, *, share: float, least: int = 1, level: float = LEVEL) -> str:
    """FAIL where `count` of `total` is at least `least` and no chance under a true `share`, else WARN.

    One example alone condemns nothing: with a share of 5 % it is chance.

    >>> severest(9, 100, share=0.05), severest(10, 100, share=0.05), severest(1, 1, share=0.05)
    ('WARN', 'FAIL', 'WARN')
    """
    return "FAIL" if count >= least and share_by_chance(count, total, share) < level else "WARN"
