"""Exact confidence intervals for shares of examples, and the exact test of two shares of the same examples."""

from __future__ import annotations

from trustbound.errors import InputError


def binomial_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share: covers the truth in at least `confidence` of all draws.

    Reference   Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 1934.

    >>> low, high = binomial_interval(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.555, 0.997)
    >>> binomial_interval(0, 0)
    (0.0, 1.0)
    """
    if not 0 <= successes <= total:
        raise InputError(f"successes must lie in 0..total; got {successes} of {total}")
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence must lie strictly between 0 and 1; got {confidence}")
    if total == 0:
        return 0.0, 1.0
    from scipy.stats import beta

    tail = (1.0 - confidence) / 2.0
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, total - successes + 1))
    high = 1.0 if successes == total else float(beta.ppf(1.0 - tail, successes + 1, total - successes))
    return low, high


def mcnemar(gained: int, lost: int) -> float:
    """Exact McNemar test, two-sided: how likely a split at least this uneven is if neither of two models were better.

    Parameters
        gained, lost    examples on which only the second, only the first of two models is right.

    Reference   McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
                Psychometrika 1947.

    >>> mcnemar(0, 0), mcnemar(3, 3), mcnemar(0, 5) == 2 / 2**5
    (1.0, 1.0, True)
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def binomial_lower(successes: int, total: int, failure_probability: float) -> float:
    """Clopper-Pearson lower limit of a probability, one-sided.

    It is above the truth in at most `failure_probability` of all draws.

    Reference   Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 1934.

    >>> round(binomial_lower(10, 10, 0.001), 4), round(0.001 ** (1 / 10), 4)
    (0.5012, 0.5012)
    >>> binomial_lower(0, 10, 0.001)
    0.0
    """
    if not 0 <= successes <= total:
        raise InputError(f"successes must lie in 0..total; got {successes} of {total}")
    if not 0.0 < failure_probability < 1.0:
        raise InputError(f"failure_probability must lie strictly between 0 and 1; got {failure_probability}")
    if successes == 0:
        return 0.0
    from scipy.special import betainc, betaincinv

    low = float(betaincinv(successes, total - successes + 1, failure_probability))
    # What an inverse rounds is taken off: as many successes or more must be rare enough at the limit itself.
    step = 1e-13
    while not float(betainc(successes, total - successes + 1, low)) <= failure_probability * (1.0 - 1e-12):
        low, step = low * (1.0 - step), min(2.0 * step, 0.5)
    return low
