"""The page of results: each table stands between its markers, `<!-- name -->` and `<!-- /name -->`."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent / "README.md"


def fill(mark: str, body: str) -> None:
    """Write a table anew where the page has a place for it.

    Raises      SystemExit where it has none.
    """
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{PAGE} lacks the markers <!-- {mark} --> … <!-- /{mark} -->: nothing written there")
    PAGE.write_text(pattern.sub(lambda found: f"{found[1]}{body}\n{found[2]}", text), encoding="utf-8")
