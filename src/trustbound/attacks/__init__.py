"""Upper bounds: searches for inputs that break the model.

Importing this package stays cheap: torch is imported when one of the names below is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustbound.attacks.attacking import attack, build
    from trustbound.attacks.searching import Attack, Found, search

__all__ = ["Attack", "Found", "attack", "build", "search"]

_HOMES = {
    "Attack": "searching",
    "Found": "searching",
    "attack": "attacking",
    "build": "attacking",
    "search": "searching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
