"""The question asked of a model: probes, the bracket search, the curve, the sandwich, compare and gate.

Importing this package stays cheap: the registry of checks beside it needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustbound.audits.run import audit

__all__ = ["audit"]


def __getattr__(name: str) -> Any:
    if name != "audit":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trustbound.audits.run import audit

    return audit
