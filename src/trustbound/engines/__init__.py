"""Where work units are carried out: in this process, or on Ray. An engine knows nothing of what the work is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustbound.engines.engine import Engine, started

__all__ = ["Engine", "started"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trustbound.engines import engine

    return getattr(engine, name)
