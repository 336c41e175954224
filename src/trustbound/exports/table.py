"""One row an example and threat: what a spreadsheet, pandas or another program reads of a record.

| column | what it holds |
| --- | --- |
| `row` | number of the example in the whole data set |
| `threat` | text form of the threat |
| `label`, `prediction`, `confidence` | true class, the model's answer to the clean input, and how sure it was |
| `verdict` | misclassified, broken, certified or unknown |
| `broken_by`, `certified_by` | the step of the audit that settled it |
| `size` | of the change that broke it, in the threat's unit, measured again in float64 |
| `margin` | the smallest that a search saw; below zero where broken |
| `certified_margin` | lower bound of the margin over the whole threat, before rounding |
| `certified_radius` | the largest size at which it is proven, of the sizes that were asked about |
| `adversarial_prediction`, `adversarial_confidence` | the model's answer to what broke it |
| `tie`, `lost_to_rounding` | a margin within rounding error; a proof that rounding alone takes |
| `forwards`, `backwards`, `queries`, `cost` | evaluations under this threat; forwards + r · backwards |

What a task without classes keeps of an example follows in columns of its own.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustbound.errors import MissingDependencyError
from trustbound.record.audit import AuditRecord, ExampleRow
from trustbound.record.disk.atomic import write_atomically

if TYPE_CHECKING:
    from pandas import DataFrame

#: Column → its dtype in pandas; a missing whole number is no fraction.
COLUMNS = {
    "row": "int64",
    "threat": "str",
    "label": "Int64",
    "prediction": "Int64",
    "confidence": "float64",
    "verdict": "str",
    "broken_by": "str",
    "certified_by": "str",
    "size": "float64",
    "margin": "float64",
    "certified_margin": "float64",
    "certified_radius": "float64",
    "adversarial_prediction": "Int64",
    "adversarial_confidence": "float64",
    "tie": "bool",
    "lost_to_rounding": "bool",
    "forwards": "Int64",
    "backwards": "Int64",
    "queries": "Int64",
    "cost": "float64",
}


def columns(record: AuditRecord) -> dict[str, list[Any]]:
    """The table by columns, in the order of the record: threat after threat, each in the order of the data.

    >>> from trustbound.record.audit import DataFacts, ModelFacts
    >>> from trustbound.record.cost import Cost
    >>> model = ModelFacts(name="tiny", sha256="", parameters=2, classes=2, input_shape=(2,), box=(0.0, 1.0),
    ...     device="cpu", dtype="float32")
    >>> data = DataFacts(name="one", sha256="", n=1, class_names=(), indices=(7,))
    >>> row = ExampleRow(threat="linf:0.1", index=7, label=1, prediction=1, confidence=0.9, verdict="broken",
    ...     settled_by="pgd", size=0.1, forwards=10, backwards=10)
    >>> record = AuditRecord(command="", created="2025-01-01", versions={}, seed=0, budget="quick", model=model,
    ...     data=data, clean_accuracy=1.0, clean_interval=(0.0, 1.0), brackets=(), steps=(), curves=(), doubts={},
    ...     checks=(), gallery=(), examples=(row,), cost=Cost(), backward_cost=3.0, exit_code=0)
    >>> table = columns(record)
    >>> table["row"], table["broken_by"], table["cost"]
    ([7], ['pgd'], [40.0])
    """
    rows = [_cells(record, example) for example in record.examples]
    details = dict.fromkeys(name for example in record.examples for name in example.detail)
    told = {name: [example.detail.get(name) for example in record.examples] for name in details}
    return {name: [row[name] for row in rows] for name in COLUMNS} | {
        name if name not in COLUMNS else f"detail_{name}": values for name, values in told.items()
    }


def frame(record: AuditRecord) -> DataFrame:
    """The table as a pandas DataFrame; what is not known is missing (NA, NaN).

    Raises      MissingDependencyError without pandas.
    """
    pandas = _pandas("a frame")
    table = columns(record)
    return pandas.DataFrame(
        {
            name: pandas.Series(values, dtype=COLUMNS.get(name, "object" if _nested(values) else None))
            for name, values in table.items()
        }
    )


def write_csv(record: AuditRecord, path: Path) -> None:
    """The table as comma-separated values, UTF-8; what is not known is empty, a number has all of its digits."""
    table = columns(record)
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(table)
    lines.writerows([_flat(value) for value in row] for row in zip(*table.values(), strict=True))
    write_atomically(path, lambda scratch: scratch.write_bytes(text.getvalue().encode("utf-8")))


def write_parquet(record: AuditRecord, path: Path) -> None:
    """The table as Parquet, with the types of the frame.

    Raises      MissingDependencyError without pandas or pyarrow.
    """
    _pandas("Parquet")
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise _missing("Parquet", "pyarrow") from error
    written = io.BytesIO()
    frame(record).to_parquet(written, engine="pyarrow", index=False)
    write_atomically(path, lambda scratch: scratch.write_bytes(written.getvalue()))


def _cells(record: AuditRecord, example: ExampleRow) -> dict[str, Any]:
    cost = None
    if example.forwards is not None and example.backwards is not None:
        cost = example.forwards + record.backward_cost * example.backwards
    return {
        "row": example.index,
        "threat": example.threat,
        "label": example.label,
        "prediction": example.prediction,
        "confidence": example.confidence,
        "verdict": example.verdict,
        "broken_by": example.settled_by if example.verdict == "broken" else "",
        "certified_by": example.settled_by if example.verdict == "certified" else "",
        "size": example.size,
        "margin": example.margin,
        "certified_margin": example.certified_margin,
        "certified_radius": example.radius,
        "adversarial_prediction": example.adversarial_prediction,
        "adversarial_confidence": example.adversarial_confidence,
        "tie": example.tie,
        "lost_to_rounding": example.rounded,
        "forwards": example.forwards,
        "backwards": example.backwards,
        "queries": example.queries,
        "cost": cost,
    }


def _flat(value: Any) -> Any:
    """A list or mapping as JSON, everything else as it is."""
    return json.dumps(value) if _nested([value]) else value


def _nested(values: list[Any]) -> bool:
    """Whether a column holds lists or mappings, of which pandas has no type."""
    return any(isinstance(value, list | tuple | dict) for value in values)


def _pandas(what: str) -> Any:
    try:
        import pandas
    except ImportError as error:
        raise _missing(what, "pandas") from error
    return pandas


def _missing(what: str, package: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"{what} needs {package}, which is not installed: pip install 'trustbound[frames]'. CSV needs nothing more."
    )
