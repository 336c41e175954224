"""A finished audit, taken away: the public call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustbound.errors import InputError
from trustbound.exports.card import model_card
from trustbound.exports.table import write_csv, write_parquet
from trustbound.record.audit import AuditRecord
from trustbound.record.disk.atomic import write_atomically
from trustbound.record.record_file import read_record
from trustbound.report.formatting import amount

if TYPE_CHECKING:
    from trustbound.data.labelled import LabelledSet
    from trustbound.model.wrapping import Model

#: Examples of each threat that are written as pictures, unless said otherwise.
PICTURES = 100


@dataclass(frozen=True)
class Exported:
    """One file or folder that was written, and what is in it, in words."""

    path: Path
    said: str


def export(
    run: str | Path | AuditRecord,
    *,
    csv: str | Path | None = None,
    parquet: str | Path | None = None,
    npz: str | Path | None = None,
    png: str | Path | None = None,
    card: str | Path | None = None,
    data: LabelledSet | None = None,
    model: Model | None = None,
    limit: int = PICTURES,
    force: bool = False,
) -> tuple[Exported, ...]:
    """Write a finished audit as tables, arrays, pictures or words.

    Parameters
        run         directory of a finished audit; its record is enough for tables.
        csv, parquet    one row an example and threat (`exports/table.py`).
        npz         clean and adversarial inputs, labels, rows, verdicts, sizes measured anew (`exports/arrays.py`).
        png         folder for pictures of what was broken, each examined again after rounding to 8 bits, with a table
                    `contents.csv` (`exports/pictures.py`).
        card        the section of a model card that the record supports, as Markdown (`exports/card.py`).
        data        the examples that were audited, for `npz` and `png`: their digest must be that of the record.
        model       the model that was audited; without it pictures are not shown to it again.
        limit       broken examples of each threat that are written as pictures at most.
        force       replace files that are there.

    Raises      InputError for files that are there already, and for other data or another model; UnsupportedError for
                pictures of what is none; RecordError for a run that is not finished or lacks what it speaks of.

    >>> import tempfile, torch, trustbound as tb
    >>> data = tb.LabelledSet(torch.rand(6, 4), [0, 1, 1, 0, 1, 0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = tb.audit(torch.nn.Linear(4, 2), data, ["linf:0.5"], budget="quick", run=f"{folder}/run")
    ...     written = export(f"{folder}/run", csv=f"{folder}/a.csv", npz=f"{folder}/a.npz", data=data)
    ...     [one.path.name for one in written]
    ['a.csv', 'a.npz']
    """
    asked = {"csv": csv, "parquet": parquet, "npz": npz, "png": png, "card": card}
    targets = {name: Path(path) for name, path in asked.items() if path is not None}
    check_targets(targets, force=force)
    if type(limit) is not int or limit < 1:
        raise InputError(f"`limit` must be a whole number of 1 or more; got {limit!r}")
    record = run if isinstance(run, AuditRecord) else read_record(run)
    writers: dict[str, Callable[[Path], str]] = {
        "csv": lambda path: _rows(record, write_csv, path),
        "card": lambda path: _words(record, path),
        "parquet": lambda path: _rows(record, write_parquet, path),
    }
    if targets.keys() & {"npz", "png"}:
        writers |= _from_run(run, record, data, model, limit)
    return tuple(Exported(path, writers[name](path)) for name, path in targets.items())


def check_targets(targets: Mapping[str, Path], *, force: bool) -> None:
    """Refuse to write nothing, into a folder that is not there, or over what is there.

    >>> check_targets({"csv": Path("a"), "npz": Path("a")}, force=True)
    Traceback (most recent call last):
    trustbound.errors.InputError: each form needs a file of its own; got 'a' for csv and npz
    """
    if not targets:
        raise InputError(
            "an export needs at least one of csv, parquet, npz, png, card: a file, or a folder for pictures"
        )
    for name, path in targets.items():
        same = [other for other, place in targets.items() if place.absolute() == path.absolute()]
        if len(same) > 1:
            raise InputError(f"each form needs a file of its own; got {str(path)!r} for {' and '.join(same)}")
        if not path.absolute().parent.is_dir():
            raise InputError(f"{name} is written into a folder that is there; {path.parent} is not. Make it first.")
        if path.is_dir() != (name == "png") and path.exists():
            raise InputError(
                f"{name} takes a {'folder' if name == 'png' else 'file'}; {path} is the other. Name another."
            )
        taken = any(path.iterdir()) if path.is_dir() else path.exists()
        if taken and not force:
            what = "holds files" if path.is_dir() else "exists"
            raise InputError(
                f"{path} {what} already, and nothing is overwritten unasked. Give --force (force=True) or another name."
            )


def _rows(record: AuditRecord, write: Callable[[AuditRecord, Path], None], path: Path) -> str:
    write(record, path)
    return f"{amount(len(record.examples), 'row')}, one an example and threat"


def _words(record: AuditRecord, path: Path) -> str:
    text = model_card(record)
    write_atomically(path, lambda scratch: scratch.write_bytes(text.encode("utf-8", errors="replace")))
    return f"a section of {len(text.splitlines())} lines"


def _from_run(
    run: str | Path | AuditRecord,
    record: AuditRecord,
    data: LabelledSet | None,
    model: Model | None,
    limit: int,
) -> dict[str, Callable[[Path], str]]:
    """What also takes the witnesses and the data."""
    from trustbound.exports.arrays import write_npz
    from trustbound.exports.pictures import write_pictures
    from trustbound.exports.sources import same_examples, same_model

    if isinstance(run, AuditRecord):
        raise InputError(
            "arrays and pictures are made of a run directory, where the adversarial inputs lie; got a record"
        )
    if data is None:
        raise InputError(
            "arrays and pictures take the examples that were audited, which no run directory holds: pass data="
        )
    examples = same_examples(data, record)
    known = None if model is None else same_model(model, record)
    broken = sum(row.verdict == "broken" for row in record.examples)

    def arrays(path: Path) -> str:
        write_npz(Path(run), record, examples, path)
        return f"{amount(len(examples), 'example')}, {amount(broken, 'adversarial input')}"

    def pictures(path: Path) -> str:
        path.mkdir(exist_ok=True)
        lines = write_pictures(Path(run), record, examples, known, path, limit=limit)
        return said_of_pictures(lines, broken)

    return {"npz": arrays, "png": pictures}


def said_of_pictures(lines: list[dict[str, Any]], broken: int) -> str:
    """How many pictures were written, of how many, and what rounding did to them."""
    asked = [line for line in lines if not str(line["still_breaks"]).startswith("not asked")]
    rest = "" if len(lines) == broken else f" of {broken:,}"
    many = "example" if broken == 1 else "examples"
    said = f"pictures of {len(lines):,}{rest} broken {many}; contents.csv lists them"
    if not asked:
        return f"{said}; {lines[0]['still_breaks']}"
    still = sum(line["still_breaks"] == "yes" for line in asked)
    outside = sum(line["inside_8_bit"] is False for line in asked)
    return f"{said}; rounded to 8 bits {still:,} of {len(asked):,} still break the model" + (
        f", and {outside:,} lie outside of the threat by what rounding adds" if outside else ""
    )
