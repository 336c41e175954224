"""The tutorial, line by line and in order, in an empty folder and a home that has nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

from trustbound.record.record_file import read_record

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)


def test_every_line_of_the_tutorial_runs_in_order(tmp_path):
    program = tmp_path / "bin" / "trustbound"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m trustbound "$@"\n')
    program.chmod(0o755)
    (program.parent / "python").symlink_to(sys.executable)
    (tmp_path / "home").mkdir()
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    # An interpreter behind a link does not know its environment: it is told where the packages are.
    packages = os.pathsep.join(entry for entry in sys.path if entry)
    there = {"PATH": path, "HOME": str(tmp_path / "home"), "PYTHONPATH": packages, "OMP_NUM_THREADS": "1"}
    place = tmp_path / "mine"
    place.mkdir()
    said = []
    for language, text in BLOCKS:
        if text.startswith("# net.py"):
            (place / "net.py").write_text(text)
            continue
        program_text = ["python", "-c", text] if language == "python" else ["sh", "-ec", text]
        done = subprocess.run(program_text, cwd=place, env=there, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    assert [language for language, _ in BLOCKS] == ["python", "sh", "sh", "sh", "sh", "python"]
    (bracket,) = read_record(place / "runs" / "mine").brackets
    assert bracket.certified > 0
    assert said[-1].startswith("linf:0.05: at least ")
    assert (place / "mine.csv").read_text().count("\n") == 101
    assert "linf:0.05" in (place / "card.md").read_text()
