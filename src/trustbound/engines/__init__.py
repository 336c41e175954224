"""Where work units are carried out: in this process, or on Ray. An engine knows nothing of what the work is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustbound.lazy import lazy

if TYPE_CHECKING:
    from trustbound.engines.engine import Engine, started

__all__ = ["Engine", "started"]


__getattr__ = lazy(__name__, dict.fromkeys(__all__, "engine"))
