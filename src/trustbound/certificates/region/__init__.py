"""Where the adversary may go, as a proof needs it: one file for each kind of set, around its support function."""

from trustbound.certificates.region.region import Region

__all__ = ["Region"]
