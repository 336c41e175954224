"""The page of victims: each of its commands runs, on few examples, and its report names the bound that cannot exist."""

import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "victims.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
FEW = 12


def commands(text):
    """The shell lines of a text, each as a list of arguments without the program's name."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    split = [shlex.split(line) for line in lines]
    assert all(line[0] == "trustbound" for line in split)
    return [line[1:] for line in split]


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder that has the examples."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_six_audits_and_a_row_of_its_table_for_each():
    audits = [line for text in SECTIONS.values() for line in commands(text) if line[0] == "audit"]
    threats = [line[line.index("--threat") + 1] for line in audits]
    assert len(audits) == len(SECTIONS) == 6
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "`" in line]
    assert [re.search(r"`(.*?)`", row)[1] for row in rows] == threats


@pytest.mark.parametrize("title", SECTIONS)
def test_a_command_of_the_page_runs_and_its_report_says_what_the_page_says(title, there, trustbound):
    for line in commands(SECTIONS["The network"])[:1] if "network" in title else ():
        done = trustbound(*line, "--epochs", 3)
        assert done.code == 0, done.err
    (line,) = [line for line in commands(SECTIONS[title]) if line[0] == "audit"]
    done = trustbound(*line, "--limit", FEW, "--budget", "quick", "--curve", 0, "--run", there / "run", "--json")
    assert done.code == 0, done.err
    (bracket,) = json.loads(done.out)["brackets"]
    told = " ".join(SECTIONS[title].replace("\n> ", " ").split())
    if bracket["no_proof"]:
        assert bracket["lower"] == 0.0
        assert f"({bracket['no_proof']})" in told
        assert bracket["no_proof"] in " ".join((there / "run" / "report.html").read_text(encoding="utf-8").split())
    else:
        assert "certified; the proof covers every allowed change" in told
    assert 0 < bracket["broken"] + bracket["misclassified"] <= FEW
