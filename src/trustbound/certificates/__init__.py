"""Proofs: lower bounds of robust accuracy that hold for every input the threat allows.

`certify` is the door; `graph.read` turns a module into a list of operations once, for those who ask repeatedly:
a certifier's `margins(graph, region, labels)` and `radius.certified_radius` take that list. Importing this package
stays cheap: torch is imported when one of the names below is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustbound.lazy import lazy

if TYPE_CHECKING:
    from trustbound.certificates.certifying import CertificationResult, certify

__all__ = ["CertificationResult", "certify"]


__getattr__ = lazy(__name__, dict.fromkeys(__all__, "certifying"))
