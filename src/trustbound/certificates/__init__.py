"""Proofs: lower bounds of robust accuracy that hold for every input the threat allows.

`certify` is the door; `graph.read` turns a module into a list of operations once, for those who ask repeatedly:
a certifier's `margins(graph, region, labels)` and `radius.certified_radius` take that list.
"""

from trustbound.certificates.certify import Proof, certify

__all__ = ["Proof", "certify"]
