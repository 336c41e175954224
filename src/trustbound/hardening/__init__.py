"""Training that lifts the bounds: recipes, objectives, one loop. Importing this package stays cheap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustbound.lazy import lazy

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


__getattr__ = lazy(__name__, _HOMES)
