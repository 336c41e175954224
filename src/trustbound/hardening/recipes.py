"""Recipes that have a name: numbers that were tuned once and measured, so that nobody has to guess them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trustbound.errors import InputError
from trustbound.hardening.recipe import Recipe

RECIPES: Mapping[str, Recipe] = MappingProxyType({})


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
