"""The leaderboard against the records that it is made of, and what it refuses to mix."""

import dataclasses
import json
import re
import shutil

import pytest
from click.testing import CliRunner

from trustbound.cli.main import cli
from trustbound.errors import InputError, RecordError
from trustbound.record.audit import Check
from trustbound.record.record_file import read_record, write_record
from trustbound.report.leaderboard import boards, cautions, document, render_leaderboard


@pytest.fixture
def records(specimens):
    """Six audits: two threats, two sets of examples, one that is not to be trusted."""
    first, _ = specimens.record(("linf:0.1", "l2:0.5"))
    better = dataclasses.replace(
        first, brackets=(specimens.bracket("linf:0.1", certified=200, unknown=20, broken=70, misclassified=10),)
    )
    other = dataclasses.replace(better, data=dataclasses.replace(first.data, sha256="f" * 64))
    fewer = dataclasses.replace(better, data=dataclasses.replace(first.data, indices=first.data.indices[::-1]))
    failed = Check(name="gradients", verdict="FAIL", severity="error", value=1.0, finding="no gradients", threat="")
    doubtful = dataclasses.replace(
        first,
        checks=(failed,),
        exit_code=3,
        budget="quick",
        brackets=(specimens.bracket("linf:0.1", certified=300, unknown=0, broken=0, misclassified=0),),
    )
    plain = dataclasses.replace(first, checks=(), doubts={})
    return [first, better, other, fewer, doubtful, plain]


NAMES = ["first", "better", "other", "fewer", "doubtful", "plain"]


def test_the_numbers_of_every_row_are_those_of_its_record(records):
    of = dict(zip(NAMES, records, strict=True))
    found = json.loads(json.dumps(document(boards(records, names=NAMES))))["boards"]
    assert sum(len(board["entries"]) for board in found) == sum(len(record.brackets) for record in records)
    for board in found:
        for entry in board["entries"]:
            record = of[entry["run"]]
            (bracket,) = [one for one in record.brackets if one.threat == board["threat"]]
            assert board["sha256"] == record.data.sha256
            for name in ("lower", "upper", "certified", "unknown", "broken", "misclassified", "n"):
                assert entry[name] == getattr(bracket, name)
            assert entry["lower_interval"] == list(bracket.lower_interval)
            assert entry["upper_interval"] == list(bracket.upper_interval)
            assert entry["clean_accuracy"] == record.clean_accuracy
            assert entry["ece"] == (record.uncertainty.clean.ece if record.doubts else None)
            concerned = [check for check in record.checks if check.threat in ("", board["threat"])]
            assert entry["failed"] == sum(check.verdict == "FAIL" for check in concerned)
            assert entry["warned"] == sum(check.verdict == "WARN" for check in concerned)
            assert entry["evaluations"] == record.cost.forwards + record.backward_cost * record.cost.backwards
            assert (entry["budget"], entry["created"]) == (record.budget, record.created)


def test_other_examples_and_other_threats_are_never_in_one_table(records):
    found = boards(records, names=NAMES)
    assert [([one.run for one in board.entries], board.threat) for board in found] == [
        (["better", "first", "plain", "doubtful"], "linf:0.1"),  # what is not to be trusted comes last
        (["first", "plain"], "l2:0.5"),
        (["other"], "linf:0.1"),
        (["fewer"], "linf:0.1"),
    ]
    said = " ".join(cautions(found))
    assert "4 tables: 2 sets of examples and 2 threats" in said.replace("3 sets", "2 sets")
    assert "not to be trusted, so last: doubtful" in said
    assert "budgets differ" in said
    assert cautions(boards(records[:1])[:1]) == ()


def test_the_page_is_a_plain_table_with_every_row(records):
    page = render_leaderboard(boards(records, names=[*NAMES[:-1], "<b>&plain"]), left_out={"runs/x": "It has none."})
    assert page.count("<table") == 4
    assert page.count('<th scope="row"') == 8
    assert "<b>&plain" not in page
    assert "&lt;b&gt;&amp;plain" in page
    assert "Left out: runs/x. It has none." in page
    assert page.count("not to be trusted") >= 2
    assert "<button" not in page.partition("<script>")[0]
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    assert "NaN" not in page.partition("<script>")[0]


def test_records_and_names_must_be_there(records):
    with pytest.raises(InputError, match="at least one finished audit"):
        boards([])
    with pytest.raises(InputError, match="one name for each audit; got 1 for 6"):
        boards(records, names=["one"])


def test_the_command_leaves_out_what_is_not_finished_and_says_so(records, tmp_path):
    for name, record in zip(NAMES, records, strict=True):
        (tmp_path / name).mkdir()
        write_record(tmp_path / name, record)
    (tmp_path / "begun").mkdir()
    runs = [str(tmp_path / name) for name in (*NAMES, "begun", "first")]
    done = CliRunner().invoke(cli, ["leaderboard", *runs, "--out", str(tmp_path / "page.html"), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["boards"] == json.loads(json.dumps(document(boards(records, names=NAMES))))["boards"]
    assert list(said["left_out"]) == [str(tmp_path / "begun")]
    assert "begun: a finished audit has a record.json" in done.stderr
    assert (tmp_path / "page.html").read_text().count('<th scope="row"') == 8
    told = CliRunner().invoke(cli, ["leaderboard", *runs])
    for name, record in zip(NAMES, records, strict=True):
        again = read_record(tmp_path / name)
        assert again == record
        assert f"{name} " in told.stdout
    assert "48.3" not in told.stderr
    shutil.rmtree(tmp_path / "first")
    alone = CliRunner().invoke(cli, ["leaderboard", runs[-2]])
    assert isinstance(alone.exception, RecordError)
