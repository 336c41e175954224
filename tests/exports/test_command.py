"""`trustbound export`: what it takes from the run, from the audit's command, and what it answers where it cannot."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from trustbound.cli.main import cli
from trustbound.errors import InputError, RecordError
from trustbound.record.record_file import write_record


def export(*arguments):
    """Output of a command; what it raises on purpose is raised."""
    done = CliRunner().invoke(cli, ["export", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_all_forms_at_once_by_the_audits_own_command(audited, tmp_path):
    done = export(
        audited.run, "--csv", tmp_path / "a.csv", "--parquet", tmp_path / "a.parquet", "--npz", tmp_path / "a.npz",
        "--png", tmp_path / "pictures",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 4
    assert "still break the model" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "a.parquet", "a.npz", "pictures"}


def test_nothing_is_overwritten_unasked(audited, tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("mine")
    with pytest.raises(InputError, match=r"a\.csv exists already, and nothing is overwritten unasked\. Give --force"):
        export(audited.run, "--csv", target, "--npz", tmp_path / "a.npz")
    assert target.read_text() == "mine"
    assert not (tmp_path / "a.npz").exists()
    assert export(audited.run, "--csv", target, "--force").exit_code == 0
    assert target.read_text().startswith("row,threat,")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files already"):
        export(audited.run, "--png", tmp_path / "pictures")
    assert export(audited.run, "--png", tmp_path / "pictures", "--force").exit_code == 0
    assert (tmp_path / "pictures" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "at least one of csv, parquet, npz, png, card"),
        (["--csv", "nowhere/a.csv"], "nowhere is not. Make it first"),
        (["--csv", "."], "csv takes a file; . is the other"),
        (["--csv", "a", "--npz", "a"], "for csv and npz"),
    ],
)
def test_targets_that_cannot_be_are_named(audited, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        export(audited.run, *arguments)


def test_an_unfinished_run_says_how_to_finish_it(audited, tmp_path):
    run = shutil.copytree(audited.run, tmp_path / "run")
    (run / "record.json").unlink()
    with pytest.raises(RecordError, match="Give the audit's command again to finish it"):
        export(run, "--csv", tmp_path / "a.csv")


@pytest.fixture
def said(audited, tmp_path):
    """A copy of the run whose record says that another command made it."""

    def copy(command):
        run = shutil.copytree(audited.run, tmp_path / "run")
        write_record(run, dataclasses.replace(audited.record, command=command))
        return run

    return copy


def test_an_audit_made_in_python_takes_its_data_from_source(audited, said, tmp_path):
    run = said("notebook.py --fast")
    with pytest.raises(InputError, match=r"was not made by `trustbound audit` but by 'notebook.py --fast'.* --source"):
        export(run, "--npz", tmp_path / "a.npz")
    assert export(run, "--csv", tmp_path / "a.csv").exit_code == 0
    done = export(run, "--npz", tmp_path / "a.npz", "--source", f"fc:{audited.weights} --data digits")
    assert done.exit_code == 0, done.output
    assert np.load(tmp_path / "a.npz")["rows"].tolist() == list(audited.record.data.indices)


def test_a_model_that_is_executed_is_not_loaded_because_a_record_says_so(audited, said, tmp_path):
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef model(): raise SystemExit\n")
    run = said(f"trustbound audit {evil}:model --data digits --limit 24 --threat linf:0.1")
    done = export(run, "--png", tmp_path / "pictures", "--limit", 1)
    assert not (tmp_path / "ran").exists()
    assert "evil.py:model is executed to be loaded. Give --source" in done.stderr
    assert "not asked: no model was given" in done.stdout


def test_lost_weights_cost_the_check_of_the_pictures_alone(audited, said, tmp_path):
    run = said(f"trustbound audit fc:{tmp_path / 'gone.safetensors'} --data digits --limit 24 --threat linf:0.1")
    done = export(run, "--png", tmp_path / "pictures", "--limit", 1)
    assert done.exit_code == 0, done.output
    assert "the pictures are not shown to the model" in done.stderr
    assert "gone.safetensors" in done.stderr


def test_an_older_run_has_no_counts_and_no_radii(tmp_path, request):
    kept = request.path.parents[1] / "audits" / "kept" / "schema-1" / "run"
    run = shutil.copytree(kept, tmp_path / "run")
    assert export(run, "--csv", tmp_path / "a.csv").exit_code == 0
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert len(lines) == 1 + len(json.loads((run / "record.json").read_text())["examples"])
    assert lines[1].endswith(",,,,")
