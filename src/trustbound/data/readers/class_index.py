"""Which class number each name stands for: a folder of pictures, a label of a table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from trustbound.errors import InputError

ClassIndex = Mapping[str, int] | str | Path
#: What a number looks like: ASCII digits only, no hexadecimal, no underscores, neither inf nor nan.
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
#: More classes than any model has: a larger number is an identity, not a class.
_MOST = 1_000_000


def class_numbers(places: Mapping[str, str], advice: str) -> tuple[dict[str, int], list[str]]:
    """Number class names, and name every class number.

    Parameters
        places      each name that occurs → where it was met, for messages.
        advice      what to do about names that cannot be numbered.

    Numbers     whole numbers from 0 are class numbers as they stand, however they are written ("7", "07", "7.0",
                "7e0"). True and false are 1 and 0. Other names are numbered from 0 in the order of their characters
                ("c10" before "c2"); where numbers are among them, each must come out as its own number.
    Raises      InputError: negative or fractional numbers, numbers among names that would be numbered otherwise, nan.

    >>> class_numbers({"10.0": "", "9": ""}, "")[0]
    {'10.0': 10, '9': 9}
    >>> class_numbers({"dog": "", "cat": ""}, "")
    ({'cat': 0, 'dog': 1}, ['cat', 'dog'])
    """
    values = {name: _value(name) for name in places}
    for name in places:
        if name.lower() == "nan":
            raise InputError(f"{places[name]}: a class is needed; got {name!r}, a missing value. {advice}")
    if all(value is not None for value in values.values()):
        for name, value in values.items():
            if value is None or value != value.to_integral_value() or not 0 <= value < _MOST:
                raise InputError(
                    f"{places[name]}: class numbers are whole and count from 0, below {_MOST:,}; got {name!r}. {advice}"
                )
        numbers = {name: int(value) for name, value in values.items() if value is not None}
        return numbers, named(numbers)
    if all(name.lower() in ("true", "false") for name in places):
        return {name: int(name.lower() == "true") for name in places}, ["false", "true"]
    names = sorted(places)
    numbers = {name: number for number, name in enumerate(names)}
    for name, value in values.items():
        if value is not None and value != numbers[name]:
            other = next(text for text, one in values.items() if one is None)
            raise InputError(
                f"{places[name]}: the name {name!r} looks like a class number beside names that are none "
                f"({other!r}, {places[other]}); in the order of their characters it would be class {numbers[name]}. "
                f"{advice}"
            )
    return numbers, names


def named(numbers: Mapping[str, int], shown: Mapping[str, str] | None = None) -> list[str]:
    """A name for each class number from 0 to the largest."""
    by_number = {number: (shown or {}).get(name, name) for name, number in numbers.items()}
    return [by_number.get(number, f"class {number}") for number in range(max(by_number) + 1)]


def _value(text: str) -> Decimal | None:
    return Decimal(text) if NUMBER.fullmatch(text) else None


def class_order(folders: Sequence[str], class_index: ClassIndex | None) -> tuple[dict[str, int], list[str]]:
    """Number the class folders, and name every class number.

    Parameters
        folders      the class folders that exist.
        class_index  None: `class_numbers` of the folder names. A mapping folder → number, or a file of one:
                     JSON {"cat": 3}, JSON ["airplane", "automobile", …], JSON {"0": ["n01440764", "tench"]}
                     (folder first, name to show second), or text with one `folder number`, `folder,number`
                     or `folder` per line.

    Raises      InputError: a folder that the index does not know, a number or a folder given twice, names that
                cannot be numbered, unreadable file.
    Deviations  torchvision's ImageFolder numbers the folders 0 … 11 in the order 0, 1, 10, 11, 2 …; here 10 is 10.

    >>> class_order(["cat", "dog"], {"dog": 0, "fox": 2, "cat": 1})
    ({'dog': 0, 'fox': 2, 'cat': 1}, ['dog', 'cat', 'fox'])
    """
    if class_index is None:
        numbers, names = class_numbers(
            {name: f"the class folder {name}" for name in folders}, "Say with class_index which folder is which class."
        )
        _refuse_shared("the class folders", numbers)
        return numbers, names
    if isinstance(class_index, Mapping):
        where = "`class_index`"
        numbers, shown = dict(class_index), dict[str, str]()
    else:
        where = str(class_index)
        numbers, shown = _read(Path(class_index))
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < _MOST:
            raise InputError(f"{where} must give class numbers 0, 1, … below {_MOST:,}; got {number!r} for {name!r}")
    _refuse_shared(where, numbers)
    if unknown := [name for name in folders if name not in numbers]:
        raise InputError(
            f"{where} must name every class folder; missing: {', '.join(unknown[:10])} "
            f"({len(unknown)} of {len(folders)})"
        )
    return numbers, named(numbers, shown)


def _refuse_shared(where: str, numbers: Mapping[str, int]) -> None:
    """Two folders of one number would be one class."""
    first: dict[int, str] = {}
    for name, number in numbers.items():
        if (other := first.setdefault(number, name)) != name:
            raise InputError(f"{where} must give every class its own number; got {number} for {other!r} and {name!r}")


def _read(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the class index {path} cannot be read: {error}") from error
    if path.suffix.lower() != ".json":
        return _from_text(text, path), {}
    try:
        held = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"the class index {path} is no JSON: {error}") from error
    return _from_json(held, path)


def _once(pairs: Sequence[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """A mapping whose keys all differ: of two equal ones JSON would keep the last in silence."""
    held = dict(pairs)
    if len(held) != len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"{path} names {next(name for name in names if names.count(name) > 1)!r} twice")
    return held


def _from_json(held: Any, path: Path) -> tuple[dict[str, int], dict[str, str]]:
    if isinstance(held, list) and held and all(isinstance(name, str) for name in held):
        return _once([(name, number) for number, name in enumerate(held)], path), {}
    if isinstance(held, dict) and held and all(isinstance(value, int) for value in held.values()):
        return held, {}
    if isinstance(held, dict) and held and all(re.fullmatch("[0-9]{1,9}", key) for key in held):
        pairs = {key: value if isinstance(value, list) else [value] for key, value in held.items()}
        if all(pair and all(isinstance(word, str) for word in pair) for pair in pairs.values()):
            return (
                _once([(pair[0], int(key)) for key, pair in pairs.items()], path),
                {pair[0]: pair[-1] for pair in pairs.values()},
            )
    raise InputError(
        f'{path} must hold {{"folder": number}}, a list of folders, or {{"number": ["folder", "name"]}}; '
        f"got {type(held).__name__}"
    )


def _from_text(text: str, path: Path) -> dict[str, int]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    pairs = [re.fullmatch(r"(.*\S)[\s,]+([0-9]{1,9})", line) for line in lines]
    if any(pairs) and not all(pairs):
        bare = next(line for line, pair in zip(lines, pairs, strict=True) if pair is None)
        raise InputError(f"{path} must give a number on every line or on none; got {bare!r} without one")
    numbers = _once(
        [
            (pair[1].rstrip(","), int(pair[2])) if pair else (line, n)
            for n, (line, pair) in enumerate(zip(lines, pairs, strict=True))
        ],
        path,
    )
    if not numbers:
        raise InputError(f"the class index {path} is empty")
    return numbers
