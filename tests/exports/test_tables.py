"""The table against the record, row by row, in each of its forms."""

import csv
import json
import sqlite3
import subprocess
import sys

import numpy as np
import pandas
import pytest
import torch

import trustbound as tb
from trustbound.exports.table import COLUMNS, columns


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def table(audited):
    tb.export(audited.run, csv=audited.folder / "a.csv", parquet=audited.folder / "a.parquet")
    return audited


def test_the_csv_says_what_the_record_says_row_by_row(table):
    lines, rows = read(table.folder / "a.csv"), table.record.examples
    assert list(lines[0]) == list(COLUMNS)
    assert len(lines) == len(rows) == 48
    assert {row.verdict for row in rows} >= {"broken", "certified"}
    for line, row in zip(lines, rows, strict=True):
        told = {
            "row": row.index, "threat": row.threat, "label": row.label, "prediction": row.prediction,
            "confidence": row.confidence, "verdict": row.verdict, "size": row.size, "margin": row.margin,
            "certified_margin": row.certified_margin, "certified_radius": row.radius, "tie": row.tie,
            "adversarial_prediction": row.adversarial_prediction, "lost_to_rounding": row.rounded,
            "adversarial_confidence": row.adversarial_confidence, "forwards": row.forwards,
            "backwards": row.backwards, "queries": row.queries,
            "cost": row.forwards + table.record.backward_cost * row.backwards,
            "broken_by": row.settled_by if row.verdict == "broken" else "",
            "certified_by": row.settled_by if row.verdict == "certified" else "",
        }  # fmt: skip
        assert line == {name: "" if value is None else str(value) for name, value in told.items()}


def test_costs_and_radii_of_the_table_are_those_of_the_evidence(table):
    """From the database itself, not by the code that wrote them."""
    with sqlite3.connect(table.run / "audit.sqlite") as base:
        spent = {
            (threat, position): numbers
            for threat in ("linf:0.1", "rotation:20")
            for position, *numbers in base.execute(
                "SELECT position, sum(forwards), sum(backwards), sum(queries) FROM evidence "
                "WHERE step LIKE ? GROUP BY position",
                (f"{threat}/%",),
            )
        }
        proofs = base.execute("SELECT position, found FROM evidence WHERE step LIKE 'linf:0.1/proof-%'").fetchall()
        sought = base.execute("SELECT position FROM evidence WHERE step LIKE 'linf:0.1/curve-proof-%'").fetchall()
    frame = table.record.to_frame()
    for place, line in frame.iterrows():
        assert [line.forwards, line.backwards, line.queries] == spent.get((line.threat, place % 24), [0, 0, 0])
    assert frame.forwards.sum() <= table.record.cost.forwards
    frame = frame[frame.threat == "linf:0.1"]  # rotations have proofs and radii in degrees
    proven = frame[frame.certified_radius >= 0.1]
    assert set(proven.index) >= {position for position, found in proofs if found}
    assert set(proven.index) == set(frame[frame.verdict == "certified"].index)
    sizes = table.record.curves[0].epsilons
    assert set(frame.certified_radius.dropna()) <= {0.1, *sizes}
    elsewhere = proven[~proven.index.isin([position for (position,) in sought])]
    assert len(elsewhere)
    assert (elsewhere.certified_radius == 0.1).all()
    broken = frame[(frame.verdict == "broken") & frame.certified_radius.notna()]
    assert len(broken)
    assert (broken.certified_radius < broken["size"]).all()
    assert frame[frame.threat == "rotation:20"].certified_radius.isna().all()


def test_parquet_read_by_pandas_and_the_csv_hold_the_frame(table):
    frame = table.record.to_frame()
    pandas.testing.assert_frame_equal(pandas.read_parquet(table.folder / "a.parquet"), frame, check_dtype=True)
    again = pandas.read_csv(table.folder / "a.csv", dtype=COLUMNS)
    for name in COLUMNS:
        mine, theirs = frame[name], again[name]
        if str(mine.dtype) == "str":
            assert (theirs.fillna("") == mine).all()
        else:
            pandas.testing.assert_series_equal(theirs, mine)


def test_what_another_task_keeps_stands_in_columns_of_its_own():
    data = tb.LabelledSet(torch.rand(6, 3), torch.rand(6), task="regression:tolerance=0.2")
    model = tb.wrap(torch.nn.Linear(3, 1), task="regression:tolerance=0.2")
    record = tb.audit(model, data, ["linf:0.3"], budget="quick", curve_examples=0)
    table, frame = columns(record), record.to_frame()
    assert frame.label.isna().all()
    assert frame.prediction.isna().all()
    assert np.allclose(frame.target, data.labels)
    assert {"detail_prediction", "error"} <= set(table)


def test_lists_are_json_in_csv(tmp_path):
    data = tb.LabelledSet(torch.rand(4, 3), torch.rand(4, 2), task="regression:tolerance=0.2")
    model = tb.wrap(torch.nn.Linear(3, 2), task="regression:tolerance=0.2")
    record = tb.audit(model, data, ["linf:0.3"], budget="quick", curve_examples=0)
    tb.export(record, csv=tmp_path / "a.csv", parquet=tmp_path / "a.parquet")
    assert [json.loads(line["target"]) for line in read(tmp_path / "a.csv")] == data.labels.tolist()
    assert np.allclose(np.stack(pandas.read_parquet(tmp_path / "a.parquet").target), data.labels)


def test_without_pandas_one_sentence_says_what_to_install(table):
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "from trustbound.record.record_file import read_record\n"
        "import trustbound as tb\n"
        f"record = read_record({str(table.run)!r})\n"
        "try: record.to_frame()\n"
        "except tb.MissingDependencyError as error: print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'trustbound[frames]'" in done.stdout, done.stderr
