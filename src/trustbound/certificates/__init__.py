"""Proofs: lower bounds of robust accuracy that hold for every input the threat allows.

`certify` is the door; `graph.read` turns a module into a list of operations once, for those who ask repeatedly:
a certifier's `margins(graph, region, labels)` and `radius.certified_radius` take that list.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustbound.certificates.certify import Proof, certify

__all__ = ["Proof", "certify"]


def __getattr__(name: str) -> Any:
    """Import the door when it is first used: the registry beside it must not need torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trustbound.certificates import certify as door

    return getattr(door, name)
