"""The project with one thing more: one new file and one registry row, in a copy that runs by itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def enlarged(root, file, text, registry, row):
    """A copy under `root` with a new `file` of that text and a first row in `registry`, both below src/trustbound."""
    for name in ("src", "docs", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    package = root / "src" / "trustbound"
    (package / file).write_text(text)
    before = (package / registry).read_text()
    after, count = re.subn(
        r'^(\w+ = Registry\(\n    "[^"]+",\n)', lambda found: found[1] + row, before, flags=re.MULTILINE
    )
    assert count == 1
    (package / registry).write_text(after)
    return root


def run(root, *arguments):
    """Python in the copy."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"},
    )


def command(root, *arguments):
    """`trustbound ARGUMENTS` in the copy."""
    return run(root, "-c", "from trustbound.cli.main import main; main()", *arguments)
