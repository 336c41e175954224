"""The page about a gate in continuous integration: its workflow is one, and its steps run and stop as it says."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "ci.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def job():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    workflow = yaml.safe_load(text)
    assert workflow[True]["pull_request"]["paths"]  # YAML 1.1 reads the key `on` as true
    (job,) = workflow["jobs"].values()
    return job


def steps(job):
    """Name → its lines that are trustbound's own."""
    return {
        step["name"]: [shlex.split(line)[1:] for line in step["run"].splitlines() if line.startswith("trustbound ")]
        for step in job["steps"]
        if "run" in step
    }


def test_the_workflow_keeps_what_was_found_also_where_the_gate_fails(job):
    named = {step.get("name", step.get("uses", "")): step for step in job["steps"]}
    assert [name for name in named if name in ("Install", "Audit", "Gate", "Take away")] == [
        "Install", "Audit", "Gate", "Take away",
    ]  # fmt: skip
    assert named["Take away"]["if"] == named["actions/upload-artifact@v4"]["if"] == "${{ !cancelled() }}"
    (audit,) = steps(job)["Audit"]
    assert named["actions/upload-artifact@v4"]["with"]["path"] == audit[audit.index("--run") + 1]


def test_its_lines_run_and_the_gate_stops_what_misses(job, trustbound, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights.read_bytes())
    lines = steps(job)
    assert lines["Install"] == []
    (audit,), (gate,), (export,) = lines["Audit"], lines["Gate"], lines["Take away"]
    short = [{"--time": "--budget", "10m": "quick"}.get(word, word) for word in audit]  # no clock decides a test
    done = trustbound(*short, "--limit", 40, "--curve", 0)
    assert done.code == 0, done.err
    done = trustbound(*gate)
    assert (done.code, done.out) == (0, "met\n"), done.err
    high = [{"0.3": "0.99"}.get(word, word) for word in gate]
    done = trustbound(*high)
    assert (done.code, done.out) == (1, "missed\n")
    assert "missed: linf:0.05: unbroken share is 0." in done.err
    assert trustbound(*export).code == 0
    assert (tmp_path / "runs/ci/card.md").read_text(encoding="utf-8").startswith("## How far this model")
    assert trustbound("gate", "runs/nowhere", "--upper", "0.5").code == 2


def test_the_page_names_every_exit_code():
    assert re.findall(r"^\| (\d) \|", PAGE, re.MULTILINE) == ["0", "1", "2", "3"]
