"""Training that lifts the bounds: recipes, objectives, one loop. Importing this package stays cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustbound.hardening.fit import train
    from trustbound.hardening.history import Epoch, Event, Progress, Trained
    from trustbound.hardening.named_recipes import named_recipe
    from trustbound.hardening.probe import Probe
    from trustbound.hardening.recipe import Recipe
    from trustbound.hardening.training.batches import Augmentation

__all__ = [
    "Augmentation",
    "Epoch",
    "Event",
    "Probe",
    "Progress",
    "Recipe",
    "Trained",
    "named_recipe",
    "train",
]

_HOMES = {
    "Augmentation": "training.batches",
    "Epoch": "history",
    "Event": "history",
    "Probe": "probe",
    "Progress": "history",
    "Recipe": "recipe",
    "Trained": "history",
    "named_recipe": "named_recipes",
    "train": "fit",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
