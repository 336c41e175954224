"""Is it chance that one attack broke more than another on the same examples?"""

from __future__ import annotations

from trustbound.errors import InputError


def excess_by_chance(only_first: int, only_second: int) -> float:
    """Probability of an excess at least this large when both attacks are equally strong (exact, one-sided).

    Parameters
        only_first, only_second     examples broken by one of the two and not by the other.

    Reference   McNemar, Note on the sampling error of the difference between correlated proportions,
                Psychometrika 1947; the exact binomial form.

    >>> excess_by_chance(5, 0), excess_by_chance(0, 0)
    (0.03125, 1.0)
    """
    if only_first < 0 or only_second < 0:
        raise InputError(f"counts must be ≥ 0; got {only_first} and {only_second}")
    if only_first == 0:
        return 1.0
    from scipy.stats import binom

    return float(binom.sf(only_first - 1, only_first + only_second, 0.5))


def severest(only_first: int, only_second: int, total: int, *, points: float, level: float = 0.05) -> str:
    """FAIL where the excess is above `points` (a share) and no chance, else WARN.

    >>> severest(9, 1, 100, points=0.05), severest(9, 8, 100, points=0.05)
    ('FAIL', 'WARN')
    """
    large = (only_first - only_second) / max(total, 1) > points
    return "FAIL" if large and excess_by_chance(only_first, only_second) < level else "WARN"
