"""How numbers are written: one form for shares, intervals, counts, sizes and durations.

A share is rounded to a tenth of a per cent, but never to 0 % or 100 % unless it is exactly that: 1,999 of
2,000 is not "all".
"""

from __future__ import annotations

import math
from datetime import datetime
from fractions import Fraction

from trustbound.record.binomial import binomial_interval

#: Written where a number is not defined, e.g. the confidence on errors of a network without errors.
UNDEFINED = "not defined"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SPACE = "\u00a0"


def share(value: float | None) -> str:
    """A share in per cent.

    >>> share(123 / 300), share(1.0), share(0.9999), share(0.0001)
    ('41.0\\xa0%', '100\\xa0%', '>\\xa099.9\\xa0%', '<\\xa00.1\\xa0%')
    """
    if value is None:
        return UNDEFINED
    if value in (0.0, 1.0):
        return f"{value * 100:.0f}{_SPACE}%"
    if 0.0 < value < 0.0005:
        return f"<{_SPACE}0.1{_SPACE}%"
    if 0.9995 <= value < 1.0:
        return f">{_SPACE}99.9{_SPACE}%"
    return f"{value * 100:.1f}{_SPACE}%"


def interval(limits: tuple[float, float] | None) -> str:
    """A 95 % interval of a share, in per cent.

    >>> interval((0.3538, 0.4681))
    '35.4–46.8\\xa0%'
    """
    return UNDEFINED if limits is None else f"{limits[0] * 100:.1f}–{limits[1] * 100:.1f}{_SPACE}%"


def share_with_interval(value: float, limits: tuple[float, float]) -> str:
    """A share and, in brackets, its interval.

    >>> share_with_interval(0.41, (0.3538, 0.4681))
    '41.0\\xa0% (35.4–46.8\\xa0%)'
    """
    return f"{share(value)} ({interval(limits)})"


def counted(successes: int, total: int) -> str:
    """A share with its exact binomial interval, from counts.

    >>> counted(123, 300)
    '41.0\\xa0% (35.4–46.8\\xa0%)'
    """
    if total <= 0:
        return UNDEFINED
    return share_with_interval(successes / total, binomial_interval(successes, total))


def measured(value: float | None, total: int) -> str:
    """A share that was measured as a count of `total`, with its exact binomial interval.

    The share may be an average over orders of ties; the interval then belongs to the nearest count.

    >>> measured(0.5, 2)
    '50.0\\xa0% (1.3–98.7\\xa0%)'
    """
    if value is None or total <= 0:
        return UNDEFINED
    return share_with_interval(value, binomial_interval(min(max(round(value * total), 0), total), total))


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits, plainly written.

    >>> number(0.031372549), number(None), number(float("inf")), number(1234567.0), number(3.0)
    ('0.03137', 'not defined', '∞', '1,234,567', '3')
    """
    if value is None or math.isnan(value):
        return UNDEFINED
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def count(value: int) -> str:
    """A count with thousands set apart.

    >>> count(3470000)
    '3,470,000'
    """
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Seconds as a reader says them.

    >>> duration(0.0), duration(0.534), duration(83), duration(7384)
    ('0 s', '0.53 s', '1 min 23 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def date(text: str) -> str:
    """A moment as people write it; what is none as it is.

    >>> date("2026-11-29T07:01:31+00:00"), date("2025-01-01"), date("yesterday")
    ('29 Nov 2026, 07:01 UTC', '1 Jan 2025', 'yesterday')
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    day = f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"
    zone = f" {moment.tzname()}" if moment.tzinfo else ""
    return f"{day}, {moment:%H:%M}{zone}" if "T" in text else day


def amount(value: int, one: str, many: str = "") -> str:
    """A count and what is counted.

    >>> amount(1, "image"), amount(1200, "image"), amount(2, "query", "queries")
    ('1 image', '1,200 images', '2 queries')
    """
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def size_of(threat: str) -> tuple[str, float, str] | None:
    """Set, size, and the unit that a table's columns give it, "" for input units; None without a single size.

    >>> size_of("linf:8/255"), size_of("rotation:30,translation:3"), size_of("l2:inf;goal=target:3")
    (('linf', 0.03137254901960784, ''), None, ('l2', inf, ''))
    >>> size_of("linf:5%"), size_of("linf:0.1*std"), size_of("linf:columns;access=scores")
    (('linf', 0.05, '%'), ('linf', 0.1, 'std'), ('linf', 1.0, 'columns'))
    """
    name, _, text = threat.partition(";")[0].strip().partition(":")
    size, star, unit = text.strip().partition("*")
    if not star:
        size, unit = (size[:-1], "%") if size.endswith("%") else ("1", size) if size == "columns" else (size, "")
    try:
        return name, math.inf if size == "inf" else float(Fraction(size)) / (100.0 if unit == "%" else 1.0), unit
    except (ValueError, ZeroDivisionError):
        return None
