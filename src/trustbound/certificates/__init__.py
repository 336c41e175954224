"""Proofs: lower bounds of robust accuracy that hold for every input the threat allows.

`certify` is the door; `graph.read` turns a module into a list of operations once, for those who ask repeatedly:
a certifier's `margins(graph, region, labels)` and `radius.certified_radius` take that list. `clever` estimates and
proves nothing: it is no certifier, and no bracket rests on it. `verify` decides a property of boxes and outputs,
`output_ranges` says between which limits outputs stay.
`lipschitz` bounds how fast a network can change, layer by layer. Importing this package stays cheap: torch is imported
when one of the names below is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustbound.lazy import lazy

if TYPE_CHECKING:
    from trustbound.certificates.certifying import CertificationResult, certify
    from trustbound.certificates.sensitivity.constants import LipschitzResult, lipschitz
    from trustbound.certificates.sensitivity.extreme_values import CleverEstimate, clever
    from trustbound.certificates.verification.properties import Property
    from trustbound.certificates.verification.ranging import OutputRanges, output_ranges
    from trustbound.certificates.verification.verifying import VerificationResult, verify

__all__ = [
    "CertificationResult",
    "CleverEstimate",
    "LipschitzResult",
    "OutputRanges",
    "Property",
    "VerificationResult",
    "certify",
    "clever",
    "lipschitz",
    "output_ranges",
    "verify",
]

_HOMES = {
    "CertificationResult": "certifying",
    "CleverEstimate": "sensitivity.extreme_values",
    "LipschitzResult": "sensitivity.constants",
    "certify": "certifying",
    "clever": "sensitivity.extreme_values",
    "lipschitz": "sensitivity.constants",
    "OutputRanges": "verification.ranging",
    "Property": "verification.properties",
    "VerificationResult": "verification.verifying",
    "output_ranges": "verification.ranging",
    "verify": "verification.verifying",
}


__getattr__ = lazy(__name__, _HOMES)
