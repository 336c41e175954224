"""Which class number each folder of pictures stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trustbound.errors import InputError

ClassIndex = Mapping[str, int] | str | Path


def class_order(folders: Sequence[str], class_index: ClassIndex | None) -> tuple[dict[str, int], list[str]]:
    """Number the class folders, and name every class number.

    Parameters
        folders      the class folders that exist.
        class_index  None: sorted names count from 0. A mapping folder → number, or a file of one:
                     JSON {"cat": 3}, JSON ["airplane", "automobile", …], JSON {"0": ["n01440764", "tench"]}
                     (folder first, name to show second), or text with one `folder number`, `folder,number`
                     or `folder` per line.

    Raises      InputError: a folder that the index does not know, a number given twice, unreadable file.

    >>> class_order(["cat", "dog"], {"dog": 0, "fox": 2, "cat": 1})
    ({'dog': 0, 'fox': 2, 'cat': 1}, ['dog', 'cat', 'fox'])
    """
    if class_index is None:
        return {name: number for number, name in enumerate(sorted(folders))}, sorted(folders)
    if isinstance(class_index, Mapping):
        where = "`class_index`"
        numbers, shown = dict(class_index), dict[str, str]()
    else:
        where = str(class_index)
        numbers, shown = _read(Path(class_index))
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise InputError(f"{where} must give class numbers 0, 1, …; got {number!r} for {name!r}")
    if len(set(numbers.values())) != len(numbers):
        raise InputError(f"{where} must give every class its own number; got {numbers}")
    if unknown := [name for name in folders if name not in numbers]:
        raise InputError(
            f"{where} must name every class folder; missing: {', '.join(unknown[:10])} "
            f"({len(unknown)} of {len(folders)})"
        )
    by_number = {number: shown.get(name, name) for name, number in numbers.items()}
    return numbers, [by_number.get(number, f"class {number}") for number in range(max(by_number) + 1)]


def _read(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the class index {path} cannot be read: {error}") from error
    if path.suffix.lower() != ".json":
        return _from_text(text, path), {}
    try:
        held = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"the class index {path} is no JSON: {error}") from error
    return _from_json(held, path)


def _from_json(held: Any, path: Path) -> tuple[dict[str, int], dict[str, str]]:
    if isinstance(held, list) and all(isinstance(name, str) for name in held):
        return {name: number for number, name in enumerate(held)}, {}
    if isinstance(held, dict) and held and all(isinstance(value, int) for value in held.values()):
        return held, {}
    if isinstance(held, dict) and held and all(key.isdigit() for key in held):
        pairs = {key: value if isinstance(value, list) else [value] for key, value in held.items()}
        if all(pair and all(isinstance(word, str) for word in pair) for pair in pairs.values()):
            return (
                {pair[0]: int(key) for key, pair in pairs.items()},
                {pair[0]: pair[-1] for pair in pairs.values()},
            )
    raise InputError(
        f'{path} must hold {{"folder": number}}, a list of folders, or {{"number": ["folder", "name"]}}; '
        f"got {type(held).__name__}"
    )


def _from_text(text: str, path: Path) -> dict[str, int]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    numbers: dict[str, int] = {}
    for place, line in enumerate(lines):
        name, _, tail = line.replace(",", " ").rpartition(" ")
        name, number = (name.strip(), int(tail)) if name and tail.isdigit() else (line, place)
        if name in numbers:
            raise InputError(f"{path} names {name!r} twice")
        numbers[name] = number
    if not numbers:
        raise InputError(f"the class index {path} is empty")
    return numbers
