"""`trustbound verify`: verdicts in the form of VNN-COMP, and the page about it, whose commands run."""

import json
import re
import shlex
from pathlib import Path

import pytest

import trustbound as tb

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "verify.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```(?:\n\n> (\w+))?", PAGE, re.DOTALL)


def test_the_page_runs_and_each_verdict_is_what_it_says(tmp_path, monkeypatch, trustbound):
    monkeypatch.chdir(tmp_path)
    said = []
    for kind, text, verdict in BLOCKS:
        if kind == "python":
            exec(compile(text, "verify.md", "exec"), {})
            continue
        (line,) = text.strip().splitlines()
        done = trustbound(*shlex.split(line)[1:])
        assert done.code == 0, done.err
        if verdict:
            assert done.out.splitlines()[0] == verdict
            said.append(verdict)
    assert said == ["unsat", "sat"]
    done = trustbound("verify", "runs/digits/fc.onnx", "runs/digits/far.vnnlib", "--json")
    told = json.loads(done.out)
    assert told["verdict"] == "sat"
    assert told["witness"]["replayed"] == ["float64", "onnxruntime"]
    assert (len(told["witness"]["inputs"]), len(told["witness"]["outputs"])) == (64, 10)
    again = trustbound("verify", "fc:runs/digits/fc.safetensors", "runs/digits/far.vnnlib")
    assert re.fullmatch(r"sat\n\((\([XY]_\d+ \S+\)\n?)+\)\n", again.out)
    named = dict(re.findall(r"\(([XY]_\d+) (\S+?)\)", again.out))
    asked = tb.certificates.verification.vnnlib.read_vnnlib("runs/digits/far.vnnlib").queries[0]
    for place in range(64):
        assert float(asked.low[place]) <= float(named[f"X_{place}"]) <= float(asked.high[place])


@pytest.fixture
def files(tmp_path):
    """A network of one number, and a property of it."""
    (tmp_path / "net.py").write_text("import torch\ndef one():\n    return torch.nn.Linear(1, 1)\n")
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0))(assert (<= X_0 1))"
    (tmp_path / "a.vnnlib").write_text(text + "(assert (<= Y_0 -9))")
    (tmp_path / "wrong.vnnlib").write_text(text + "\n(assert (< Y_0 -9))")
    return f"{tmp_path}/net.py:one", tmp_path


def test_what_is_wrong_is_one_line(files, trustbound):
    network, folder = files
    assert "wrong.vnnlib, line 2: " in trustbound("verify", network, folder / "wrong.vnnlib").error
    assert "cannot be read" in trustbound("verify", network, folder / "none.vnnlib").error
    assert "none.onnx" in trustbound("verify", folder / "none.onnx", folder / "a.vnnlib").error


def test_hands_off_is_unknown(files, trustbound, monkeypatch):
    network, folder = files

    def stopped(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("trustbound.certificates.verification.verifying.Falsifier.search", stopped)
    done = trustbound("verify", network, folder / "a.vnnlib", "--json")
    assert done.code == 130
    assert json.loads(done.out)["verdict"] == "unknown"
    assert trustbound("verify", network, folder / "a.vnnlib").out == "unknown\n"
