"""A CSV table with a label column, and a box with one range per feature."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trustbound.data.labelled import LabelledSet
from trustbound.data.readers.class_index import NUMBER, class_numbers
from trustbound.errors import InputError
from trustbound.metrics.in_box import outside
from trustbound.record.box import Box
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.task import Task

Ranges = Mapping[str, Sequence[float]]
_LABELS = ("label", "class", "target")
_LARGEST = float(np.finfo(np.float32).max)
#: The delimiter is looked for in so many characters of the header.
_HEAD = 1 << 16


def read_table(
    path: Path,
    *,
    label_column: str | None = None,
    box: Box | Ranges | str | Path | None = None,
    task: Task = CLASSIFICATION,
) -> LabelledSet:
    """Rows of numbers with a header line; separated by commas, semicolons or tabs.

    Parameters
        label_column  which column holds the class; None takes the one named label, class or target.
                      Whole numbers are class numbers as they stand, 3.0 too; other texts are numbered in sorted
                      order, see `class_index.class_numbers`.
        task          of another task than classification the label is a number.
        box           one range for all features, or {"column": [low, high]}, a mapping or a JSON file of
                      one; None takes each column's smallest and largest value in this file.

    Shapes      (N, F) float32, the columns in the header's order without the label.
    Raises      InputError with line, column and value: text, NaN or an empty cell among the numbers, a value
                outside its range, a short row; a column that never varies when the box comes from the data.
    """
    return _table(path, *_rows(path), label_column, box, task, path.stem)


def read_frame(
    frame: Any,
    *,
    label_column: str | None = None,
    box: Box | Ranges | str | Path | None = None,
    task: Task = CLASSIFICATION,
) -> LabelledSet:
    """A pandas DataFrame, read as `read_table` reads a file of its cells; messages count its rows from 0.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"width": [1.0, 2.0, 4.0], "old": [True, False, True], "label": ["b", "a", "b"]})
    >>> data = read_frame(frame)
    >>> data.labels.tolist(), data.class_names, data.inputs[2].tolist()
    ([1, 0, 1], ('a', 'b'), [4.0, 1.0])
    """
    where = Path("DataFrame")
    header = [str(name).strip() for name in frame.columns]
    if len(header) < 2 or not len(frame) or len(set(header)) != len(header):
        raise InputError(f"a DataFrame must hold at least 2 columns with different names and 1 row; got {header}")
    cells = [
        ["" if gone else _cell(value) for value, gone in zip(row, missing, strict=True)]
        for row, missing in zip(frame.itertuples(index=False), frame.isna().to_numpy(), strict=True)
    ]
    return _table(where, header, cells, list(range(len(cells))), label_column, box, task, "frame")


def _cell(value: Any) -> str:
    """What a file would hold."""
    return str(int(value)) if isinstance(value, bool | np.bool_) else str(value)


def _table(
    path: Path,
    header: list[str],
    rows: list[list[str]],
    lines: list[int],
    label_column: str | None,
    box: Box | Ranges | str | Path | None,
    task: Task,
    name: str,
) -> LabelledSet:
    """The examples of a table's cells; `path` and `lines` are for messages."""
    place = _label_place(path, header, label_column)
    columns = [column for number, column in enumerate(header) if number != place]
    values = np.empty((len(rows), len(columns)), dtype=np.float32)
    for number, (row, line) in enumerate(zip(rows, lines, strict=True)):
        cells = [cell for at, cell in enumerate(row) if at != place]
        values[number] = [_number(path, line, column, cell) for column, cell in zip(columns, cells, strict=True)]
    labels, names = _labels([row[place].strip() for row in rows], header[place], path, lines, task)
    limits = _box(path, columns, values, box)
    _refuse_outside(path, columns, values, lines, limits)
    return LabelledSet(values, labels, box=limits, class_names=names, name=name, task=task, columns=columns)


def _rows(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(_HEAD)
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            kept = [(row, reader.line_num) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV table: {error}") from error
    if len(header) < 2 or not kept:
        raise InputError(f"{path} must hold a header with at least 2 columns and 1 row; got {header}")
    if len(set(header)) != len(header):
        raise InputError(f"{path} must name each column once; got {header}")
    for row, line in kept:
        if len(row) != len(header):
            raise InputError(f"{path}, line {line}: {len(header)} cells are needed; got {len(row)}")
    return header, [row for row, _ in kept], [line for _, line in kept]


def _label_place(path: Path, header: list[str], wanted: str | None) -> int:
    if wanted is not None:
        if wanted in header:
            return header.index(wanted)
        raise InputError(f"{path} has no column {wanted!r}; it has {', '.join(header)}")
    found = [number for number, name in enumerate(header) if name.lower() in _LABELS]
    if len(found) == 1:
        return found[0]
    raise InputError(f"{path} needs one label column; name it with label_column. Columns: {', '.join(header)}")


def _number(path: Path, line: int, column: str, cell: str) -> float:
    value = float(cell) if NUMBER.fullmatch(cell.strip()) else math.nan
    if not abs(value) <= _LARGEST:
        raise InputError(
            f"{path}, line {line}, column {column!r}: a finite number is needed; got {cell.strip()[:80]!r}. "
            "Encode categories as numbers and fill or drop missing values first."
        )
    return value


def _labels(
    cells: list[str], column: str, path: Path, lines: list[int], task: Task
) -> tuple[NDArray[Any], list[str] | None]:
    """Class numbers and names, or the numbers that the cells hold."""
    if task.plain:
        return _classes(cells, path, lines)
    return np.array([_number(path, line, column, cell) for cell, line in zip(cells, lines, strict=True)]), None


def _classes(cells: list[str], path: Path, lines: list[int]) -> tuple[NDArray[np.int64], list[str] | None]:
    for cell, line in zip(cells, lines, strict=True):
        if not cell:
            raise InputError(f"{path}, line {line}: the label is empty")
    first = {cell: line for cell, line in zip(reversed(cells), reversed(lines), strict=True)}
    numbers, names = class_numbers(
        {cell: f"{path}, line {line}, the label" for cell, line in first.items()},
        "Write the class numbers 0, 1, … or one name per class into the label column.",
    )
    whole = all(NUMBER.fullmatch(cell) for cell in first)
    return np.array([numbers[cell] for cell in cells], dtype=np.int64), None if whole else names


def _box(path: Path, columns: list[str], values: NDArray[np.float32], box: Any) -> Box:
    if isinstance(box, Box):
        return box
    if box is None:
        low, high = values.min(axis=0), values.max(axis=0)
        if flat := [name for name, a, b in zip(columns, low, high, strict=True) if a == b]:
            raise InputError(
                f"{path}: a box from the data needs columns that vary; constant: {', '.join(flat)}. "
                'Drop them, or pass box={"column": [low, high], …}.'
            )
        return Box(low.astype(np.float64), high.astype(np.float64))
    where = "`box`" if isinstance(box, Mapping) else str(box)
    ranges = box if isinstance(box, Mapping) else _read_ranges(Path(box))
    if missing := [name for name in columns if name not in ranges]:
        raise InputError(f"{where} must give a range for every feature; missing: {', '.join(missing)}")
    try:
        limits = np.array([[float(ranges[name][0]), float(ranges[name][1])] for name in columns])
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise InputError(f"{where} must give each feature a pair [low, high]; {error}") from error
    return Box(limits[:, 0], limits[:, 1])


def _read_ranges(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"the box file {path} cannot be read: {error}") from error
    if not isinstance(held, dict):
        raise InputError(f'{path} must hold {{"column": [low, high]}}; got {type(held).__name__}')
    return held


def _refuse_outside(path: Path, columns: list[str], values: NDArray[np.float32], lines: list[int], box: Box) -> None:
    far = outside(torch.from_numpy(values), box).numpy()
    if far.any():
        row, column = np.argwhere(far)[0]
        wide = [np.broadcast_to(limit, values.shape[1:]) for limit in (box.low, box.high)]
        raise InputError(
            f"{path}, line {lines[row]}, column {columns[column]!r}: the value must lie in "
            f"[{wide[0][column]:g}, {wide[1][column]:g}]; got {values[row, column]:g} "
            f"({int(far.sum())} values outside in all). Widen the box or repair the table."
        )
