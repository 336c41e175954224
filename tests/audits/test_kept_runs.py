"""A run directory of an older version opens, goes on and reports: one of each schema is kept beside this file."""

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

import trustbound as tb
from trustbound.record import migrations
from trustbound.record.record_file import read_record
from trustbound.record.store import EvidenceRow, Store

KEPT = sorted(Path(__file__).with_name("kept").iterdir())


@pytest.fixture(params=KEPT, ids=lambda folder: folder.name)
def kept(request, tmp_path):
    """(weights, run): a copy of a kept run directory, whose audit is finished."""
    return request.param / "model.safetensors", Path(shutil.copytree(request.param / "run", tmp_path / "run"))


@contextlib.contextmanager
def base(run):
    with contextlib.closing(sqlite3.connect(run / "audit.sqlite")) as connection, connection:
        yield connection


def held(run):
    """The evidence by column: what each row of a unit and an example says."""
    with base(run) as connection:
        connection.row_factory = sqlite3.Row
        return [
            {key: row[key] for key in row.keys()}
            for table in ("unit", "evidence")
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid")
        ]


def schema(run):
    """The columns of every table, and the number of them all."""
    with base(run) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in sorted(names)}
        return tables, connection.execute("PRAGMA user_version").fetchone()[0]


def again(weights, run):
    """The kept audit's command, as it was given."""
    data = tb.load_data("digits", limit=24)
    model = tb.load_model(f"fc:{weights}")
    return tb.audit(model, data, ["linf:0.05"], budget="quick", curve_examples=4, run=run)


def verdicts(record):
    return [(row.index, row.label, row.prediction, row.verdict) for row in record.examples]


def bracket(record):
    found = record.brackets[0]
    return found.threat, found.n, found.certified, found.broken, found.misclassified, found.unknown


def test_a_directory_of_the_schema_before_is_kept():
    assert f"schema-{migrations.EVIDENCE_SCHEMA - 1}" in [folder.name for folder in KEPT]
    for folder in KEPT:
        assert folder.name == f"schema-{schema(folder / 'run')[1]}"
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 200_000


def test_it_becomes_what_a_new_one_is_and_loses_nothing(kept, tmp_path):
    _, run = kept
    before = held(run)
    asked = Store.asked(run)
    with Store.open(run, asked) as store:
        rows = store.rows("clean")
        assert [row.position for row in rows] == list(range(24))
        assert all(row.payload == {} for row in rows)
        store.commit(
            "later", 0, [EvidenceRow(position=0, found=True, payload={"classes": [1, 2]})], store.cost("clean")
        )
        assert store.rows("later")[0].payload == {"classes": [1, 2]}
    Store.open(tmp_path / "new", asked).close()
    assert schema(run) == schema(tmp_path / "new")
    after = [row for row in held(run) if row["step"] != "later"]
    assert [{key: row[key] for key in old} for row, old in zip(after, before, strict=True)] == before
    assert Store.asked(run) == asked


def test_it_goes_on_without_doing_anything_twice(kept):
    weights, run = kept
    before, old = held(run), read_record(run)
    record = again(weights, run)
    assert bracket(record) == bracket(old) == ("linf:0.05", 24, 17, 7, 0, 0)
    assert verdicts(record) == verdicts(old)
    assert (record.created, record.data, record.clean_accuracy) == (old.created, old.data, old.clean_accuracy)
    after = held(run)
    assert [row for row in before if not any(row.items() <= other.items() for other in after)] == []
    assert read_record(run) == record


def test_one_that_was_killed_half_way_comes_to_the_same_verdicts(kept):
    """All that followed the first search is taken from it: proofs, controls, curve, checks and record."""
    weights, run = kept
    old = read_record(run)
    (run / "record.json").unlink()
    with base(run) as connection:
        steps = [step for (step,) in connection.execute("SELECT step FROM unit ORDER BY rowid")]
        later = steps[steps.index("linf:0.05/trial-smooth") + 1 :]
        assert len(later) > 5
        for table in ("unit", "evidence"):
            connection.executemany(f"DELETE FROM {table} WHERE step = ?", [(step,) for step in later])
        connection.execute("DELETE FROM fact WHERE name GLOB 'linf:0.05/*'")
    record = again(weights, run)
    assert bracket(record) == bracket(old)
    assert verdicts(record) == verdicts(old)


def test_its_report_is_written_from_the_record_as_it_is(kept, tmp_path):
    from click.testing import CliRunner

    from trustbound.cli.main import cli

    _, run = kept
    (run / "audit.sqlite").unlink()
    told = CliRunner().invoke(cli, ["report", str(run), "--out", str(tmp_path / "page.html")], catch_exceptions=False)
    assert told.exit_code == 0
    assert "70.8" in (tmp_path / "page.html").read_text()


def test_a_record_of_the_first_schema_is_read_as_one_of_today(kept):
    """Calibration was measured under the first threat only, and stood alone."""
    _, run = kept
    today = read_record(run)
    document = json.loads((run / "record.json").read_text())
    (doubt,) = document.pop("doubts").values()
    for first, doubts in ((doubt, today.doubts), (None, {})):
        (run / "record.json").write_text(json.dumps({**document, "schema": 1, "doubt": first}))
        found = read_record(run)
        assert found.doubts == doubts
        assert (found.schema, found.examples) == (migrations.RECORD_SCHEMA, today.examples)


def test_a_step_that_fails_leaves_the_schema_before_it(kept, monkeypatch):
    _, run = kept
    before, asked = schema(run), Store.asked(run)

    def torn(evidence):
        evidence.execute("ALTER TABLE evidence ADD COLUMN half TEXT")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "EVIDENCE", (torn,) * len(migrations.EVIDENCE))
        with pytest.raises(KeyboardInterrupt):
            Store.open(run, asked)
    assert schema(run) == before
    with Store.open(run, asked) as store:
        assert len(store.rows("clean")) == 24
