"""What a report page is made of: sections of paragraphs, lists, tables, pictures, checks and exhibits.

Sections are plain values; the templates only lay them out. Texts are escaped when they are laid out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias


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
    A `folded` table is closed, its caption being the handle; what is not `printed` stays on the screen.
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
class Pictures:
    """Figures of the same kind, two beside each other where the page is wide enough."""

    pictures: tuple[Picture, ...]
    kind: str = "pictures"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line that says how all of something stands; `tone` is "pass", "warn" or "fail"."""

    tone: str
    text: str
    rest: str = ""
    kind: str = "line"

    @property
    def mark(self) -> str:
        """The sign before it: colour alone says nothing."""
        return {"pass": "✓", "warn": "!", "fail": "✗"}[self.tone]


@dataclass(frozen=True, kw_only=True)
class Remark:
    """What one check found under one threat (empty: of the model as a whole), by which number, in words."""

    threat: str
    value: str
    finding: str


@dataclass(frozen=True, kw_only=True)
class OpenCheck:
    """A check that failed or warned, once for all threats: what it found and what to do."""

    name: str
    verdict: str
    severity: str
    remarks: tuple[Remark, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OpenChecks:
    """The checks that are to be read, in that order."""

    checks: tuple[OpenCheck, ...]
    kind: str = "checks"


@dataclass(frozen=True, kw_only=True)
class CheckRow:
    """All verdicts of one check: a cell for each threat, or a single one for the model as a whole."""

    name: str
    unit: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class CheckGrid:
    """Every check in a row, every threat in a column; a cell holds verdict and number."""

    threats: tuple[str, ...]
    rows: tuple[CheckRow, ...]
    kind: str = "grid"


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


Block: TypeAlias = "Paragraph | Items | Table | Picture | Pictures | Line | OpenChecks | CheckGrid | Listing | Exhibits"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a heading of its own; `id` is what links point to.

    A `folded` one belongs to the appendix: its title is the handle that opens it, and it is printed when it is open.
    """

    id: str
    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


def without_zeros(table: Table) -> Table:
    """The same table without the columns of numbers that are 0 in every row: they say nothing.

    >>> table = Table(caption="", head=("step", "ties", "broken"), rows=(("a", "0", "1"), ("b", "0", "0")))
    >>> without_zeros(table).head, without_zeros(table).rows
    (('step', 'broken'), (('a', '1'), ('b', '0')))
    """
    kept = [
        column
        for column in range(len(table.head))
        if column in table.words or not table.rows or any(row[column] != "0" for row in table.rows)
    ]
    return replace(
        table,
        head=tuple(table.head[column] for column in kept),
        rows=tuple(tuple(row[column] for column in kept) for row in table.rows),
        words=tuple(place for place, column in enumerate(kept) if column in table.words),
    )


def missing(text: str) -> Paragraph:
    """The one sentence that stands where a part of the record is missing."""
    return Paragraph(text=text, tone="missing")
