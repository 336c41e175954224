"""The page about taking an audit away: its lines run as they stand, in order, in an empty folder."""

import re
import shlex
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def blocks():
    """(language, text) of each block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_page_has_lines_to_run():
    assert {language for language, _ in blocks()} == {"sh", "python"}
    assert sum(text.count("trustbound ") for language, text in blocks() if language == "sh") >= 6


def test_every_line_runs_in_order(trustbound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for language, text in blocks():
        if language == "python":
            exec(compile(text, "docs/export.md", "exec"), {})
            continue
        for line in text.splitlines():
            name, *arguments = shlex.split(line)
            assert name == "trustbound"
            few = ["--limit", "24", "--budget", "quick", "--curve", "4"] if arguments[0] == "audit" else []
            done = trustbound(*arguments, *few)
            assert done.code == 0, (line, done.err)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "fc.csv", "fc.parquet", "fc.npz", "pictures", "found.safetensors", "leaderboard.html",
    }  # fmt: skip
