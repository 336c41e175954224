"""What is said of single columns, by their names in a TOML or JSON file: radius, immutable, integer, one-hot."""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustbound.errors import InputError
from trustbound.threat.goals import DECIMAL

#: A radius with its unit: `5%` (of the column's range), `0.1*std`, `0.5*range`, or a plain number.
SIZE = re.compile(rf"({DECIMAL}(?:/{DECIMAL})?)\s*(%|\*\s*std|\*\s*range)?", re.ASCII)

_KEYS = ("radius", "immutable", "integer", "one_hot")


@dataclass(frozen=True, kw_only=True)
class ColumnRule:
    """What is said of one column.

    Parameters
        radius      how far its values may go: a number and its unit, "" (the column's own), "%", "std" or "range";
                    None for what the threat says.
        immutable   its values stay.
        integer     its values are, and stay, whole numbers.
        one_hot     the group that it is one of: exactly one column of a group is 1, the others 0.
    """

    radius: tuple[float, str] | None = None
    immutable: bool = False
    integer: bool = False
    one_hot: str = ""


def read_rules(source: str | Path | Mapping[str, Any]) -> dict[str, ColumnRule]:
    """The rules of a .toml or .json file, or of a mapping, by the names of their columns.

    Raises      InputError that names the file and the column.

    >>> read_rules({"age": {"radius": "5%", "integer": True}})["age"].radius
    (5.0, '%')
    """
    held: Any = source if isinstance(source, Mapping) else _read(Path(source))
    where = "`columns`" if isinstance(source, Mapping) else str(source)
    if not isinstance(held, Mapping):
        raise InputError(f'{where} must hold {{"column": {{"radius": …}}}}; got {type(held).__name__}')
    return {str(name): _rule(where, str(name), said) for name, said in held.items()}


def check_names(rules: Mapping[str, ColumnRule], names: Sequence[str]) -> None:
    """Refuse rules of columns that the table has not."""
    for name in rules:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"the table has no column {name!r}; it has {', '.join(names)}.{hint}")


def size_with_unit(text: str) -> tuple[float, str] | None:
    """(number, unit) of a text like `5%` or `0.1*std`; None for anything else.

    >>> size_with_unit("0.1*std"), size_with_unit("5%"), size_with_unit("1/2"), size_with_unit("much")
    ((0.1, 'std'), (5.0, '%'), (0.5, ''), None)
    """
    if (match := SIZE.fullmatch(text.strip())) is None:
        return None
    top, _, bottom = match[1].partition("/")
    if bottom and float(bottom) == 0.0:
        return None
    value = float(top) / float(bottom or 1)
    return (value, (match[2] or "").lstrip("* ")) if math.isfinite(value) else None


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_once) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"the columns file {path} cannot be read as TOML or JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, each of whose keys is given once; the last of two would win in silence."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def _rule(where: str, name: str, said: Any) -> ColumnRule:
    if not isinstance(said, Mapping):
        raise InputError(f"{where}, column {name!r}: a table of {', '.join(_KEYS)} is needed; got {said!r}")
    for key, value in said.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{where}, column {name!r}: keys are {', '.join(_KEYS)}; got {key!r}.{hint}")
        if key in ("immutable", "integer") and not isinstance(value, bool):
            raise InputError(f"{where}, column {name!r}: {key} is true or false; got {value!r}")
        if key == "one_hot" and (not isinstance(value, str) or not value):
            raise InputError(f"{where}, column {name!r}: one_hot is the name of its group; got {value!r}")
    rule = ColumnRule(
        radius=_radius(where, name, said["radius"]) if "radius" in said else None,
        immutable=said.get("immutable", False),
        integer=said.get("integer", False),
        one_hot=said.get("one_hot", ""),
    )
    if rule.radius is not None and (rule.immutable or rule.one_hot):
        kind = "immutable" if rule.immutable else "one of a one-hot group, which stays as it is"
        raise InputError(f"{where}, column {name!r} is {kind}, and has a radius. Leave one of the two out.")
    return rule


def _radius(where: str, name: str, value: Any) -> tuple[float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return float(value), ""
    told = size_with_unit(value) if isinstance(value, str) else None
    if told is None:
        raise InputError(
            f"{where}, column {name!r}: radius is a number ≥ 0 in the column's own unit, or text like '5%' (of its "
            f"range) or '0.1*std'; got {value!r}"
        )
    return told
