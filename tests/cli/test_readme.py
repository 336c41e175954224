"""Every block of the README, as printed and in order, in an empty folder and a home that has nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import trustbound as tb
from trustbound.model import build

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def test_every_block_of_the_readme_runs_in_order(tmp_path):
    """What `make audit` leaves is there, its network untrained; its own lines are run by the newcomer's script."""
    place, home, program = tmp_path / "place", tmp_path / "home", tmp_path / "bin" / "trustbound"
    for folder in (place / "runs" / "digits", home, program.parent):
        folder.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m trustbound "$@"\n')
    program.chmod(0o755)
    net = build("cnn-small", seed=0, input_shape=[1, 8, 8], classes=10)
    tb.save_model(tb.wrap(net.eval(), box=(0.0, 1.0)), place / "runs" / "digits" / "plain.safetensors")
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    packages = os.pathsep.join(entry for entry in sys.path if entry)
    there = {"PATH": path, "HOME": str(home), "PYTHONPATH": packages, "OMP_NUM_THREADS": "1"}
    said = []
    for language, text in BLOCKS:
        if text.startswith("make "):
            continue
        line = [sys.executable, "-c", text] if language == "python" else ["sh", "-ec", text]
        done = subprocess.run(line, cwd=place, env=there, capture_output=True, text=True, timeout=280)
        assert done.returncode in (0, 3), f"{text}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    assert [language for language, _ in BLOCKS] == ["sh", "python", "sh"]
    assert re.search(r"linf:0.1: at least \d+\.\d%, at most \d+\.\d% withstand it\n", said[0])
    assert "PASS determinism" in said[0]
    assert "report: runs/cnn-small-" in said[1]
