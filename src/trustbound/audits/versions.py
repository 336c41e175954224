"""Versions of the software that an audit ran on."""

from __future__ import annotations

import sys
from importlib import metadata

_PACKAGES = ("trustbound", "torch", "numpy", "scipy", "scikit-learn", "safetensors")


def versions() -> dict[str, str]:
    """What the numbers were computed with.

    >>> "torch" in versions()
    True
    """
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
