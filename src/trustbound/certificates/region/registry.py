"""The sets that proofs enclose, by the norm of the threat: torch-free rows."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True, kw_only=True)
class RegionRow:
    """One kind of region.

    name    the norm whose ball it encloses.
    grain   the smallest size that is a change at all: 1 where sizes are whole numbers, else 0.
    each    whether every value may have a radius of its own.
    """

    name: str
    target: str
    line: str
    grain: float = 0.0
    each: bool = False


REGIONS = Registry(
    "a region",
    RegionRow(
        name="linf",
        target="trustbound.certificates.region.limits:BoxRegion",
        line="limits of its own for every value; the corners are in it",
        each=True,
    ),
    RegionRow(
        name="l2",
        target="trustbound.certificates.region.l2:L2Region",
        line="an l2 ball within limits",
    ),
    RegionRow(
        name="l1",
        target="trustbound.certificates.region.l1:L1Region",
        line="an l1 ball within limits",
    ),
    RegionRow(
        name="l0",
        target="trustbound.certificates.region.l0:L0Region",
        line="a whole number of values that go anywhere within limits, while the others stay",
        grain=1.0,
    ),
)
