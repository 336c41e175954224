"""One door to every kind of data: a name from the registry, or a path."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from trustbound.data.download import locate
from trustbound.data.labelled import LabelledSet
from trustbound.data.readers.class_index import ClassIndex
from trustbound.data.readers.picture_paths import ARCHIVES
from trustbound.data.readers.splits import DEFAULT, refuse_split
from trustbound.data.registry import DATA, PublishedSet
from trustbound.errors import InputError
from trustbound.record.box import Box
from trustbound.tasks.naming import parse_task
from trustbound.tasks.task import Task


def load_data(
    spec: Any,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    resize: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    interpolation: str | None = None,
    class_index: ClassIndex | None = None,
    label_column: str | None = None,
    box: Any = None,
    task: Task | str | None = None,
) -> LabelledSet:
    """Load labelled examples by name, by path, or as they are held in memory.

    Parameters
        spec          `digits`, `mnist`, `fashion-mnist`, `cifar10`, `diabetes`, `shapes`; or a path: a folder of class
                      folders of pictures, an archive of one (.tar, .tar.gz, .tgz, .zip …), an .npz, or a .csv; or
                      a torch Dataset or DataLoader, a pandas DataFrame, or a pair (inputs, labels) of arrays or
                      tensors.
        split         which part, where there are parts; `test` unless given. Refused where there are none.
        limit, seed   at most so many examples, class proportions kept, the same ones for the same seed.
        data_dir      where named sets are looked for first; then $TRUSTBOUND_DATA, the user cache, mirrors.
        resize, crop, interpolation, class_index   pictures only, see `formats.pictures.read_pictures`.
        label_column  tables only, see `formats.table.read_table`.
        box           the valid inputs; (0, 1) unless given, for tables each column's range.
        task          what the labels are of; a named set knows its own, else classification.

    Raises      InputError when the spec is unknown, an option does not apply, or the data is damaged.

    >>> data = load_data("digits", split="test", limit=100)
    >>> data.name, len(data), data.shape
    ('digits/test', 100, (1, 8, 8))
    """
    pictures = {"resize": resize, "crop": crop, "interpolation": interpolation, "class_index": class_index}
    if not isinstance(spec, str | PathLike):
        _refuse(type(spec).__name__, {**pictures, "split": split, "data_dir": data_dir})
        return _held(spec, limit, seed, label_column, box, task)
    if str(spec) in DATA.names:
        row = DATA.find(str(spec))
        _refuse(str(spec), {**pictures, "label_column": label_column, **({} if row.files else {"data_dir": data_dir})})
        return _named(row, split or DEFAULT, data_dir, _plain(box), task).stratified(limit, seed)
    path = Path(spec).expanduser()
    if not path.exists():
        raise _unknown(str(spec))
    name = path.name.lower()
    wanted = parse_task(task)
    _refuse(str(spec), {"data_dir": data_dir})
    if path.is_dir() or name.endswith(ARCHIVES):
        from trustbound.data.readers.pictures import read_pictures

        _refuse(str(spec), {"label_column": label_column})
        if not wanted.plain:
            raise InputError(
                f"a folder of pictures holds classes; the task is {wanted.name}. Give an .npz with inputs and labels."
            )
        return read_pictures(
            path,
            split,
            limit=limit,
            seed=seed,
            resize=resize,
            crop=crop,
            interpolation=interpolation,
            class_index=class_index,
            box=_plain(box),
        )
    _refuse(str(spec), pictures)
    if name.endswith(".npz"):
        from trustbound.data.readers.npz import read_npz

        _refuse(str(spec), {"label_column": label_column})
        return read_npz(path, split, box=_plain(box), task=wanted).stratified(limit, seed)
    if name.endswith(".csv"):
        from trustbound.data.readers.table import read_table

        refuse_split(path, split)
        ranges = _plain(box) if isinstance(box, tuple | list) else box
        return read_table(path, label_column=label_column, box=ranges, task=wanted).stratified(limit, seed)
    raise InputError(f"data must be a folder, an archive ({', '.join(ARCHIVES)}), an .npz or a .csv; got {str(spec)!r}")


def _held(
    held: Any, limit: int | None, seed: int, label_column: str | None, box: Any, task: Task | str | None
) -> LabelledSet:
    """Examples that are in memory already, or come out of a loader."""
    if hasattr(held, "itertuples") and hasattr(held, "columns"):
        from trustbound.data.readers.table import read_frame

        ranges = _plain(box) if isinstance(box, tuple | list) else box
        return read_frame(held, label_column=label_column, box=ranges, task=parse_task(task)).stratified(limit, seed)
    _refuse(type(held).__name__, {"label_column": label_column})
    limits: dict[str, Any] = {} if box is None else {"box": Box.of(box)}
    if isinstance(held, tuple | list):
        if len(held) != 2 or not all(hasattr(part, "shape") or isinstance(part, list) for part in held):
            raise InputError(f"a pair (inputs, labels) of arrays is needed; got {type(held).__name__} of {len(held)}")
        inputs, labels = held
        return LabelledSet(inputs, labels, task=task, **limits).stratified(limit, seed)
    if hasattr(held, "__getitem__") or hasattr(held, "__iter__"):
        return LabelledSet.from_dataset(held, limit=limit, seed=seed, task=task, **limits)
    raise InputError(
        f"data must be a name ({', '.join(DATA.names)}), a path, a Dataset, a DataLoader, a DataFrame or a pair "
        f"(inputs, labels); got {held!r}"
    )


def _named(
    row: PublishedSet, split: str, data_dir: str | Path | None, box: Box | None, task: Task | str | None
) -> LabelledSet:
    if task is not None and parse_task(task).name != row.task:
        raise InputError(
            f"{row.name} holds labels of the task {row.task}; got {parse_task(task).name}. Name that task, or other "
            "data."
        )
    if split not in row.splits:
        raise InputError(f"{row.name} has the splits {', '.join(row.splits)}; got {split!r}")
    read = DATA.load(row.name)
    data: LabelledSet = read(locate(row, split, data_dir), row, split, box=box) if row.files else read(split, box=box)
    return data


def _plain(box: Any) -> Box | None:
    return None if box is None else Box.of(box)


def _refuse(spec: str, options: dict[str, Any]) -> None:
    if given := [name for name, value in options.items() if value is not None]:
        raise InputError(
            f"{', '.join(given)} cannot be used with {spec!r}: resize, crop, interpolation and class_index "
            "belong to pictures, label_column to tables, data_dir to named sets that have files. Leave it out."
        )


def _unknown(spec: str) -> InputError:
    return InputError(
        f"data must be one of {', '.join(DATA.names)} or an existing path; got {spec!r}, which is neither."
        f"{DATA.suggestion(spec)}"
    )
