"""Labelled examples: what a model is tested on, and where they come from.

Importing this package stays cheap: torch is imported when one of the names below is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustbound.lazy import lazy

if TYPE_CHECKING:
    from trustbound.data.labelled import LabelledSet
    from trustbound.data.load import load_data
    from trustbound.data.train_test_overlap import overlap

__all__ = ["LabelledSet", "load_data", "overlap"]

_HOMES = {"LabelledSet": "labelled", "load_data": "load", "overlap": "train_test_overlap"}


__getattr__ = lazy(__name__, _HOMES)
