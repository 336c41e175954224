"""What a finished audit can be taken away as: tables, arrays, pictures, words, a view in a notebook.

Tables, words and views are made of the record alone and need no torch; arrays and pictures also take the witnesses of
the run directory, and the data that the run names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustbound.lazy import lazy

if TYPE_CHECKING:
    from trustbound.exports.exporting import export

__all__ = ["export"]

__getattr__ = lazy(__name__, {"export": "exporting"})
