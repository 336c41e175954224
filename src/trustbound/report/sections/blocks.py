"""What a report page is made of: sections of paragraphs, lists, tables, pictures, checks and exhibits.

Sections are plain values; the templates only lay them out. Texts are escaped when they are laid out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from trustbound.record.audit import Check


@dataclass(frozen=True, kw_only=True)
class Code:
    """A piece of text to be set letter by letter: a command, a hash, a file name."""

    text: str


Cell: TypeAlias = "str | Code"


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """One paragraph; `tone` is "plain", "note" (small), "missing" (a part the record does not hold)."""

    text: str
    tone: str = "plain"
    kind: str = "paragraph"


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list of sentences under a small heading."""

    title: str
    items: tuple[str, ...]
    kind: str = "items"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names its rows.

    `words` are the numbers of the columns that hold words (set left); all others hold numbers (set right).
    A `folded` table is closed on the screen and open in print, its caption being the handle; what is not
    `printed` stays on the screen.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: tuple[int, ...] = (0,)
    folded: bool = False
    printed: bool = True
    kind: str = "table"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure as inline SVG, drawn twice: for wide pages and for a phone held upright."""

    caption: str
    wide: str
    narrow: str
    kind: str = "picture"


@dataclass(frozen=True, kw_only=True)
class Checks:
    """Checks in the order in which they are to be read."""

    checks: tuple[Check, ...]
    kind: str = "checks"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A command, whole."""

    text: str
    kind: str = "listing"


@dataclass(frozen=True, kw_only=True)
class Pane:
    """One picture of an exhibit: pixels as a PNG in base64, with its alternative text and caption."""

    png: str
    width: int
    height: int
    alternative: str
    caption: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class ExhibitView:
    """An exhibit as it is shown: panes for a picture, a table for anything else."""

    title: str
    note: str
    panes: tuple[Pane, ...] = ()
    table: Table | None = None


@dataclass(frozen=True, kw_only=True)
class Exhibits:
    """The gallery."""

    exhibits: tuple[ExhibitView, ...]
    kind: str = "exhibits"


Block: TypeAlias = "Paragraph | Items | Table | Picture | Checks | Listing | Exhibits"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a heading of its own; `id` is what links point to."""

    id: str
    title: str
    blocks: tuple[Block, ...]


def missing(text: str) -> Paragraph:
    """The one sentence that stands where a part of the record is missing."""
    return Paragraph(text=text, tone="missing")
