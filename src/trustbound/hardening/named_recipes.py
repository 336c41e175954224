"""Recipes that have a name: numbers that were tuned once and measured, so that nobody has to guess them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trustbound.errors import InputError
from trustbound.hardening.objectives import FGSMRSTraining, Standard
from trustbound.hardening.recipe import Recipe

#: digits: 8×8, 1,350 training examples. mnist: 28×28, 60,000. Both for the zoo's cnn-small.
#: Weight decay keeps the layers' bounds together: without it, nothing is provable at l∞ 0.1 on digits.
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "digits": Recipe(
            objective=Standard(label_smoothing=0.05), epochs=30, batch_size=64, learning_rate=5e-3, weight_decay=1.0
        ),
        "digits-hardened": Recipe(
            objective=FGSMRSTraining(),
            threat="linf:0.15",
            epochs=25,
            batch_size=32,
            learning_rate=5e-3,
            weight_decay=1.0,
        ),
        "mnist": Recipe(epochs=2, batch_size=128, learning_rate=3e-3),
        "mnist-hardened": Recipe(
            objective=FGSMRSTraining(),
            threat="linf:0.3",
            epochs=10,
            batch_size=128,
            learning_rate=5e-3,
            schedule="cyclic",
        ),
    }
)


def named_recipe(name: str, **changes: Any) -> Recipe:
    """A named recipe, with some of its fields changed.

    >>> named_recipe("digits", seed=3).seed
    3
    """
    if name not in RECIPES:
        raise InputError(f"a recipe must be one of {', '.join(RECIPES)}; got {name!r}")
    known = {row.name for row in dataclasses.fields(Recipe)}
    if unknown := sorted(set(changes) - known):
        raise InputError(f"a recipe has the fields {', '.join(sorted(known))}; got {', '.join(unknown)}")
    return dataclasses.replace(RECIPES[name], **changes)
