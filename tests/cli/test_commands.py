"""What each command says when all is well: stdout for programs, stderr for people, and the exit code."""

import contextlib
import dataclasses
import hashlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import trustbound as tb
from trustbound.audits import run as audit_run
from trustbound.cli.progress import announced
from trustbound.record.codec import to_document
from trustbound.record.record_file import read_record

ONE = ["--limit", "24", "--threat", "linf:0.05", "--budget", "quick", "--curve", "4"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Default run directories land in the test's own folder."""
    monkeypatch.chdir(tmp_path)


def test_json_is_one_object_and_nothing_else(trustbound, weights, tmp_path):
    told = trustbound("audit", f"fc:{weights}", "--data", "digits", *ONE, "--json", "--run", tmp_path / "run")
    assert told.code == 0
    said = json.loads(told.out)
    assert set(said) >= {"schema", "clean_accuracy", "brackets", "calibration", "checks", "cost", "exit_code"}
    (bracket,) = said["brackets"]
    assert set(bracket) >= {"threat", "lower", "upper", "lower_interval", "upper_interval", "n", "unknown"}
    assert bracket["threat"] == "linf:0.05"
    assert bracket["n"] == 24
    assert (
        0 <= bracket["lower_interval"][0] <= bracket["lower"] <= bracket["upper"] <= bracket["upper_interval"][1] <= 1
    )
    assert bracket["upper"] - bracket["lower"] == pytest.approx(bracket["unknown"] / 24)
    assert len(said["checks"]) == 22
    for check in said["checks"]:
        assert set(check) >= {"name", "verdict", "value", "advice"}
        assert check["verdict"] in {"PASS", "WARN", "FAIL", "SKIP"}
    assert set(said["cost"]) >= {"forwards", "backwards", "seconds"}
    assert said["cost"]["forwards"] > said["cost"]["backwards"] > 0
    assert said["calibration"]["clean"]["n"] == 24
    assert said["schema"] == 2
    assert said["exit_code"] == 0
    assert tb.load_data("digits").sha256 != said["data"]["sha256"]
    # Progress is for people, on stderr.
    assert told.err.startswith("clean: 0 of 24")
    assert "clean: 0 of 24" not in told.out
    assert (tmp_path / "run" / "report.html").read_text().startswith("<!doctype html>")
    assert said["report"] == str(tmp_path / "run" / "report.html")
    record = read_record(tmp_path / "run")
    assert record.command.startswith("trustbound audit ")
    assert said["clean_accuracy"] == record.clean_accuracy


def test_the_same_command_finds_its_run_again(trustbound, weights, tmp_path):
    line = ["audit", f"fc:{weights}", "--data", "digits", *ONE]
    first = trustbound(*line)
    assert first.code == 0
    (run,) = (tmp_path / "runs").iterdir()
    stamp = json.loads((run / "record.json").read_text())["created"]
    again = trustbound(*line)
    assert again.code == 0
    assert [one.name for one in (tmp_path / "runs").iterdir()] == [run.name]
    assert json.loads((run / "record.json").read_text())["created"] == stamp
    assert str(run.relative_to(tmp_path)) in first.out
    # Another question is another directory.
    for change in (["--curve", "0"], ["--batch-size", "7"], ["--seed", "3"], ["--mean", "0.1"]):
        assert trustbound(*line, *change).code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 5


def test_people_read_the_summary_and_where_the_report_lies(trustbound, weights, tmp_path):
    told = trustbound("audit", f"fc:{weights}", "--data", "digits", *ONE, "--run", tmp_path / "run")
    assert told.code == 0
    assert "linf:0.05" in told.out
    assert told.out.rstrip().endswith(f"report: {tmp_path / 'run' / 'report.html'}")


@pytest.mark.parametrize(("least", "code"), [("0.0", 0), ("1.0", 1)])
@pytest.mark.parametrize("option", ["--fail-under", "--fail-under-lower"])
def test_thresholds_set_the_exit_code(trustbound, weights, finished, option, least, code):
    told = trustbound("audit", f"fc:{weights}", "--data", "digits", *ONE, "--run", finished, option, least, "--json")
    assert told.code == code
    assert json.loads(told.out)["exit_code"] == code
    assert ("missed" in told.err) == bool(code) or json.loads(told.out)["exit_code"] == code


def test_a_broken_proof_ends_in_3_with_its_numbers(trustbound, weights, tmp_path, monkeypatch):
    from trustbound.certificates.methods import interval
    from trustbound.certificates.specification import LowerBound

    honest = interval.Interval.margins

    def boastful(self, *rest, **more):
        bound = honest(self, *rest, **more)
        return LowerBound(value=bound.value.abs() + 100, run=bound.value.abs() + 100)

    monkeypatch.setattr(interval.Interval, "margins", boastful)
    told = trustbound("audit", f"fc:{weights}", "--data", "digits", *ONE, "--run", tmp_path / "run", "--json")
    assert told.code == 3
    assert "unsound" in told.err
    said = json.loads(told.out)
    assert said["exit_code"] == 3
    assert next(one for one in said["checks"] if one["name"] == "disjoint-verdicts")["verdict"] == "FAIL"
    assert (tmp_path / "run" / "report.html").exists()
    assert trustbound("gate", tmp_path / "run", "--upper", "0").code == 3


def test_a_random_model_ends_in_3(trustbound, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    from trustbound.model.broken_models import DropoutOn\n"
        "    return DropoutOn(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), probability=0.4)\n"
    )
    told = trustbound("audit", f"{tmp_path}/net.py:net", "--data", "digits", *ONE, "--json", "--run", tmp_path / "run")
    assert told.code == 3
    said = json.loads(told.out)
    assert said["exit_code"] == 3
    assert next(one for one in said["checks"] if one["name"] == "determinism")["verdict"] == "FAIL"


def test_a_dry_run_plans_and_touches_nothing(trustbound, weights, tmp_path):
    line = ["audit", f"fc:{weights}", "--data", "digits", *ONE, "--dry-run", "--run", tmp_path / "run"]
    told = trustbound(*line)
    assert told.code == 0
    assert "forwards" in told.out
    assert "minutes" in told.out
    assert not (tmp_path / "run").exists()
    said = json.loads(trustbound(*line, "--json").out)
    assert said["budget"] == "quick"
    assert said["examples"] == 24
    assert said["forwards"] == sum(stage["forwards"] for stage in said["stages"])


def test_a_dry_run_of_a_model_without_gradients(trustbound, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Cut(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = torch.nn.Linear(64, 10)\n"
        "    def forward(self, inputs):\n"
        "        return self.linear(inputs.detach().flatten(1))\n"
    )
    assert trustbound("audit", f"{tmp_path}/net.py:Cut", "--data", "digits", *ONE, "--dry-run").code == 0


def test_a_plan_is_not_exceeded(trustbound, weights, finished):
    told = trustbound("audit", f"fc:{weights}", "--data", "digits", *ONE, "--dry-run", "--json")
    planned = json.loads(told.out)
    record = read_record(finished)
    spent = sum(step.cost.forwards for step in record.steps) + sum(one.cost.forwards for one in record.curves)
    assert spent <= planned["forwards"]
    back = sum(step.cost.backwards for step in record.steps) + sum(one.cost.backwards for one in record.curves)
    assert back <= planned["backwards"]


def test_time_chooses_what_fits_and_the_run_goes_on_with_it(trustbound, weights, tmp_path, monkeypatch):
    line = ["audit", f"fc:{weights}", "--data", "digits", "--threat", "linf:0.05", "--curve", "0", "--json"]
    plan = json.loads(trustbound(*line, "--time", "10h", "--dry-run").out)
    assert plan["budget"] == "thorough"
    short = json.loads(trustbound(*line, "--time", "0.001s", "--dry-run").out)
    assert short["budget"] == "quick"
    assert 1 <= short["examples"] < plan["examples"]
    first = json.loads(trustbound(*line, "--time", "0.01s", "--run", tmp_path / "run").out)

    # On a machine that has become faster the same command still asks the same question.
    from trustbound.audits.planning import plan as planning

    honest = planning.pilot

    def faster(*rest, **more):
        tried = honest(*rest, **more)
        return replace(tried, forward=tried.forward / 50)

    monkeypatch.setattr(planning, "pilot", faster)
    again = trustbound(*line, "--time", "0.01s", "--run", tmp_path / "run")
    assert again.code == first["exit_code"], again.err
    assert json.loads(again.out)["brackets"] == first["brackets"]


def test_attack_says_one_number_and_saves_what_it_found(trustbound, weights, tmp_path):
    save = tmp_path / "found.safetensors"
    line = ["attack", "pgd", f"fc:{weights}", "--data", "digits", "--limit", "24", "--threat", "linf:0.1"]
    told = trustbound(*line, "--params", '{"steps": 10}', "--save", save, "--json")
    assert told.code == 0
    said = json.loads(told.out)
    found, data, model = load_file(save), tb.load_data("digits", limit=24), tb.load_model(f"fc:{weights}")
    assert said["n"] == 24
    assert said["unbroken"] == int((~found["success"]).sum())
    with torch.no_grad():
        fooled = model(found["adversarial"]).argmax(1) != data.labels
    assert torch.equal(fooled, found["success"])
    assert float((found["adversarial"] - data.inputs).abs().max()) <= 0.1 + 1e-6
    again = tb.attack(
        "pgd",
        model,
        data.inputs,
        data.labels,
        "linf:0.1",
        steps=10,
        seed=0,
    )
    assert torch.equal(again.adversarial, found["adversarial"])
    assert torch.equal(found["inputs"], data.inputs)
    assert torch.equal(found["labels"], data.labels)
    assert torch.equal(found["rows"], data.indices)
    changed = (found["adversarial"].double() - data.inputs.double()).abs().flatten(1).amax(1)
    assert torch.allclose(found["sizes"], changed, rtol=0, atol=1e-12)
    with torch.no_grad():
        right = model(data.inputs).argmax(1) == data.labels
    assert torch.equal(found["broken"], fooled & right)
    assert torch.equal(found["predictions"], model(found["adversarial"]).argmax(1))
    with safe_open(save, "pt") as file:
        told = file.metadata()
    assert told == {
        "attack": "pgd", "threat": "linf:0.1", "params": '{"steps": 10}', "seed": "0", "model": model.sha256,
        "data": data.sha256,
    }  # fmt: skip


def test_attack_with_one_perturbation_for_all_tells_the_halves_apart(trustbound, weights, tmp_path):
    save = tmp_path / "found.safetensors"
    line = ["attack", "uap", f"fc:{weights}", "--data", "digits", "--limit", "40", "--threat", "linf:0.3"]
    told = trustbound(*line, "--params", '{"passes": 2}', "--save", save, "--json")
    assert told.code == 0
    said, found, data = json.loads(told.out), load_file(save), tb.load_data("digits", limit=40)
    with torch.no_grad():
        right = tb.load_model(f"fc:{weights}")(data.inputs).argmax(1) == data.labels
    assert int(found["fitted"].sum()) == 20
    for half, rows in (("examples it was fitted to", found["fitted"]), ("held-out ones", ~found["fitted"])):
        counted = {"fooled": int((found["success"] & right & rows).sum()), "of": int((right & rows).sum())}
        assert said["shared"][half] == counted
    assert said["shared"]["held-out ones"]["fooled"] > 0
    expected = (data.inputs + found["perturbation"]).clamp(0.0, 1.0)
    assert torch.equal(found["adversarial"][right], expected[right])
    assert "held-out ones" in trustbound(*line, "--params", '{"passes": 1}').out
    assert "unbroken" in trustbound(*line, "--params", '{"steps": 2}').out


def test_certify_says_one_number(trustbound, weights):
    line = ["certify", "crown", f"fc:{weights}", "--data", "digits", "--limit", "24", "--threat", "linf:0.02"]
    said = json.loads(trustbound(*line, "--json").out)
    data, model = tb.load_data("digits", limit=24), tb.load_model(f"fc:{weights}")
    proof = tb.certify("crown", model, data.inputs, data.labels, "linf:0.02")
    assert said["certified"] == int(proof.certified.sum()) > 0
    assert said["lower"] == said["certified"] / 24
    assert "proven" in trustbound(*line, "--params", '{"memory": 65536}').out
    assert "crown takes memory; got steps" in trustbound(*line, "--params", '{"steps": 3}').err
    line[1], line[8] = "branch-and-bound", "linf:0.1"
    said = json.loads(trustbound(*line, "--params", '{"timeout": 1}', "--json").out)
    assert 0 < said["falsified"] <= 24 - said["certified"]
    assert f"{said['falsified']} broken by a counterexample" in trustbound(*line, "--params", '{"timeout": 1}').out


def test_report_writes_the_page_again(trustbound, finished, tmp_path):
    told = trustbound("report", finished, "--out", tmp_path / "again.html")
    assert told.code == 0
    assert str(tmp_path / "again.html") in told.out
    assert "linf:0.05" in (tmp_path / "again.html").read_text()


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (["--upper", "0"], 0),
        (["--upper", "1"], 1),
        (["--clean", "0.1", "--lower", "1"], 1),
        (["--upper", "0", "--threat", "linf:0.05"], 0),
        (["--upper", "0", "--threat", "l2:1"], 2),
    ],
)
def test_gate(trustbound, finished, asked, code):
    told = trustbound("gate", finished, *asked)
    assert told.code == code
    assert ("met" in told.out.split()) == (code == 0)
    assert ("missed:" in told.err) == (code == 1)


def test_a_gate_is_met_at_exactly_its_threshold(trustbound, finished):
    bracket = read_record(finished).brackets[0]
    assert 0 < bracket.upper < 1
    assert trustbound("gate", finished, "--upper", repr(bracket.upper)).code == 0
    assert trustbound("gate", finished, "--upper", repr(float(np.nextafter(bracket.upper, 1)))).code == 1


def test_compare_counts_who_gained_what(trustbound, finished, tmp_path):
    record = read_record(finished)
    unbroken = [row for row in record.examples if row.verdict in ("certified", "unknown")]
    lost = {row.index for row in unbroken[:6]}
    rows = tuple(dataclasses.replace(row, verdict="broken") if row.index in lost else row for row in record.examples)
    bracket = dataclasses.replace(record.brackets[0], upper=record.brackets[0].upper - 0.25, lower=0.0)
    other = dataclasses.replace(record, examples=rows, brackets=(bracket,))
    worse = tmp_path / "worse"
    worse.mkdir()
    (worse / "record.json").write_text(json.dumps(to_document(other)))
    told = trustbound("compare", finished, worse, "--json", "--out", tmp_path / "page.html")
    assert told.code == 0, told.err
    (said,) = json.loads(told.out)["differences"]
    assert (said["gained"], said["lost"]) == (0, 6)
    assert said["probability"] == pytest.approx(2 * 0.5**6)
    assert said["names"] == ["first", "worse"]
    assert (tmp_path / "page.html").exists()
    better = json.loads(trustbound("compare", worse, finished, "--json").out)["differences"][0]
    assert (better["gained"], better["lost"]) == (6, 0)
    assert "6" in trustbound("compare", finished, worse).out

    # Other examples: shares may be shown, examples may not be paired, and nothing is called proven.
    data = dataclasses.replace(record.data, sha256="other")
    sure = dataclasses.replace(record.brackets[0], lower=1.0, upper=1.0)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "record.json").write_text(
        json.dumps(to_document(dataclasses.replace(record, data=data, brackets=(sure,))))
    )
    unpaired = json.loads(trustbound("compare", finished, strange, "--json").out)["differences"][0]
    assert unpaired["gained"] is unpaired["probability"] is None
    assert unpaired["apart"] is False

    # Another threat: a sentence, and the page is written all the same.
    bracket = dataclasses.replace(record.brackets[0], threat="l2:0.25")
    (strange / "record.json").write_text(json.dumps(to_document(dataclasses.replace(record, brackets=(bracket,)))))
    told = trustbound("compare", finished, strange, "--out", tmp_path / "other.html")
    assert "first and strange have no threat in common (linf:0.05; l2:0.25)" in told.out
    assert (tmp_path / "other.html").exists()
    said = json.loads(trustbound("compare", finished, strange, "--json").out)
    assert said["differences"] == []
    assert said["without_common_threat"] == [{"name": "strange", "threats": [["linf:0.05"], ["l2:0.25"]]}]


@pytest.mark.parametrize("kind", ["attacks", "certifiers", "checks", "data", "engines", "models", "objectives"])
def test_list_shows_every_row(trustbound, kind):
    rows = json.loads(trustbound("list", kind, "--json").out)[kind]
    assert rows
    text = trustbound("list", kind).out
    for row in rows:
        assert any(line.split()[0] == row["name"] and row["line"] in line for line in text.splitlines())


def test_doctor_says_what_there_is(trustbound, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte").write_bytes(b"")
    monkeypatch.setenv("TRUSTBOUND_DATA", str(tmp_path / "data"))
    told = trustbound("doctor", "--json")
    assert told.code == 0
    said = json.loads(told.out)
    assert said["versions"]["torch"] == torch.__version__
    assert said["devices"][0] == "cpu"
    assert said["data"]["digits"] == "embedded"
    assert said["data"]["mnist"] == str(folder)
    assert "torch" in trustbound("doctor").out


def test_train_then_audit(trustbound, tmp_path):
    path = tmp_path / "net.safetensors"
    line = [
        "train",
        "fc",
        "--data",
        "digits",
        "--out",
        path,
        "--epochs",
        "5",
        "--arguments",
        '{"widths": [32]}',
    ]
    line += ["--learning-rate", "0.02", "--batch-size", "64"]
    told = trustbound(*line, "--json")
    assert told.code == 0, told.err
    said = json.loads(told.out)
    assert said["weights"] == str(path)
    assert len(said["history"]) == 5
    for spec in (f"fc:{path}", path):
        told = trustbound("audit", spec, "--data", "digits", *ONE, "--json", "--run", tmp_path / "run")
        assert told.code == 0, told.err
        assert json.loads(told.out)["clean_accuracy"] > 0.5


def test_training_data_is_looked_for_where_the_data_is(trustbound, weights, tmp_path):
    data = tb.load_data("digits", limit=24)
    np.savez(tmp_path / "seen.npz", inputs=data.inputs.numpy(), labels=data.labels.numpy())
    line = [
        "audit",
        f"fc:{weights}",
        "--data",
        tmp_path / "seen.npz",
        "--threat",
        "linf:0.05",
        "--budget",
        "quick",
    ]
    told = trustbound(*line, "--curve", "0", "--training", tmp_path / "seen.npz", "--json", "--run", tmp_path / "run")
    assert told.code == 3
    overlap = next(one for one in json.loads(told.out)["checks"] if one["name"] == "train-test-overlap")
    assert overlap["verdict"] == "FAIL"
    assert overlap["value"] == 1.0


def test_the_progress_protocol_counts_every_example(weights):
    seen = []

    class Counter:
        def expect(self, seconds):
            self.expected = seconds

        def begin(self, step, total):
            seen.append([step, total, 0])

        def advance(self, count):
            seen[-1][2] += count

    model, data = tb.load_model(f"fc:{weights}"), tb.load_data("digits", limit=24)
    audit_run.audit(model, data, ["linf:0.05"], budget="quick", curve_examples=4, progress=(counter := Counter()))
    assert seen
    lines = {
        announced(step, counter.expected) for step, _, _ in seen if step.rpartition("/")[2] not in ("clean", "attacked")
    }
    assert lines <= set(counter.expected)  # no step without a line of the plan
    assert sum(counter.expected.values()) > 0
    assert all(total == done for _, total, done in seen)
    assert "clean" in [step for step, _, _ in seen]


CHANGING = """
from torch import nn
import torch

class Net(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.scale = scale

    def forward(self, inputs):
        return self.layers(inputs * self.scale)

def make(scale=FACTOR):
    return Net(scale)
"""


def test_evidence_of_one_model_is_never_given_as_anothers(trustbound, tmp_path):
    """Same weights, same layers: only the arguments, the file, or a module that the file imports differ."""
    path = tmp_path / "net.py"
    path.write_text(CHANGING.replace("FACTOR", "1.0"))
    line = ["audit", f"{path}:make", "--data", "digits", *ONE]
    first = trustbound(*line, "--run", "run")
    assert first.code == 0, first.err
    assert "loaded was" in trustbound(*line, "--run", "run", "--arguments", '{"scale": -1.0}').error
    path.write_text(CHANGING.replace("FACTOR", "-1.0"))
    assert "loaded was" in trustbound(*line, "--run", "run").error
    assert trustbound(*line).code in (0, 3)  # without --run the edited file has a directory of its own
    (tmp_path / "helper.py").write_text(CHANGING.replace("FACTOR", "1.0"))
    path.write_text("import sys; sys.path.insert(0, '.'); sys.modules.pop('helper', None)\nfrom helper import make\n")
    assert trustbound(*line, "--run", "other").code == 0
    (tmp_path / "helper.py").write_text(CHANGING.replace("FACTOR", "-1.0") + "\n")
    assert "answered these examples otherwise" in trustbound(*line, "--run", "other").error


def test_training_data_belong_to_the_question(trustbound, weights, tmp_path):
    examples = tb.load_data("digits", limit=24)
    np.savez(tmp_path / "held.npz", inputs=examples.inputs.numpy(), labels=examples.labels.numpy())
    line = ["audit", f"fc:{weights}", "--data", "held.npz", *ONE]
    assert trustbound(*line, "--run", "run").code == 0
    assert "training was" in trustbound(*line, "--run", "run", "--training", "held.npz").error
    assert trustbound(*line, "--training", "held.npz").code == 3


def test_the_report_says_which_threshold_was_missed(trustbound, weights, tmp_path):
    line = ["audit", f"fc:{weights}", "--data", "digits", *ONE, "--run", "run"]
    told = trustbound(*line, "--fail-under", "1.0", "--json")
    assert told.code == 1
    assert json.loads(told.out)["exit_code"] == 1
    assert "missed: linf:0.05: unbroken share" in told.err
    assert json.loads(told.out)["misses"] == list(read_record(tmp_path / "run").misses)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "a threshold missed" in page
    assert "missed: linf:0.05: unbroken share" in page
    assert trustbound(*line).code == 0  # asked without a threshold, none is missed
    assert "a threshold missed" not in (tmp_path / "run" / "report.html").read_text()


def test_the_record_names_every_file_that_was_read(trustbound, weights, tmp_path):
    assert trustbound("audit", f"fc:{weights}", "--data", "digits", *ONE, "--run", "run").code == 0
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert f"read {weights.name}, SHA-256 {digest}" in read_record(tmp_path / "run").model.notes
    assert digest in (tmp_path / "run" / "report.html").read_text()


def test_the_gate_knows_a_threat_by_any_of_its_forms(trustbound, weights):
    line = ["audit", f"fc:{weights}", "--data", "digits", "--limit", "20", "--budget", "quick", "--curve", "0"]
    assert trustbound(*line, "--threat", "l2:0.4", "--threat", "linf:8/255", "--run", "run").code == 0
    assert [bracket.threat for bracket in read_record("run").brackets] == ["l2:0.4", "linf:8/255"]
    for threat in ("l2:0.4", "l2:0.40", "linf:16/510"):
        assert trustbound("gate", "run", "--upper", "0", "--threat", threat).code == 0
    assert "was audited" in trustbound("gate", "run", "--upper", "0", "--threat", "l2:0.3").error
    assert "[0, 1]" in trustbound("gate", "run", "--upper", "nan").error


def test_a_stop_from_the_keyboard_is_no_missed_threshold(trustbound, weights, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(audit_run, "audit", stopped)
    told = trustbound("audit", f"fc:{weights}", "--data", "digits", *ONE)
    assert told.code == 130
    assert "same command" in told.err

    def defect(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(audit_run, "audit", defect)
    told = trustbound("audit", f"fc:{weights}", "--data", "digits", *ONE)
    assert told.code == 70
    assert "ZeroDivisionError" in told.err


def test_a_box_for_each_feature_comes_from_a_file(trustbound, tmp_path):
    (tmp_path / "t.csv").write_text("a,b,kind\n" + "".join(f"{i % 3},{100 * (i % 5)},{i % 2}\n" for i in range(30)))
    (tmp_path / "box.json").write_text('{"low": [0, 0], "high": [2, 400]}')
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n    torch.manual_seed(0)\n    return torch.nn.Linear(2, 2)\n"
    )
    line = ["audit", "net.py:make", "--data", "t.csv", "--label-column", "kind", "--threat", "linf:1"]
    told = trustbound(*line, "--budget", "quick", "--curve", "0", "--box", "box.json", "--run", "run")
    assert told.code in (0, 3), told.err
    found = {name: array for name, array in load_file(tmp_path / "run" / "gallery.safetensors").items()}
    for name, array in found.items():
        assert (array >= 0).all(), name
        assert (array <= torch.tensor([2.0, 400.0])).all(), name
    (tmp_path / "box.json").write_text('{"low": 0}')
    assert "--box takes LOW,HIGH or a JSON file" in trustbound(*line, "--box", "box.json").error


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_an_audit_that_is_told_to_end_keeps_what_it_has(trustbound, weights, tmp_path, name, code):
    line = ["audit", f"fc:{weights}", "--data", "digits", "--threat", "linf:0.05", "--budget", "thorough"]
    line += ["--run", str(tmp_path / "run"), "--curve", "0"]
    # A shell that runs the tests behind others has its children ignore SIGINT: they would hand that on.
    heard = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    heard += "runpy.run_module('trustbound', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", heard, *line]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        store = tmp_path / "run" / "audit.sqlite"
        while process.poll() is None and not (store.exists() and kept(store)):
            time.sleep(0.05)
        process.send_signal(getattr(signal, name))
        _, told = process.communicate(timeout=120)
    assert process.returncode == code, told
    assert "goes on from here when the same command is given again" in told
    assert "Traceback" not in told
    assert kept(store)


def kept(store):
    """Whether a run directory holds a unit of the first stage."""
    with contextlib.closing(sqlite3.connect(store)) as base:
        try:
            return base.execute("SELECT count(*) FROM unit WHERE step LIKE '%first%'").fetchone()[0] > 0
        except sqlite3.OperationalError:
            return False


UNHEARING = """
import time
import torch

def make():
    try:
        time.sleep(60)
    except:
        pass
    time.sleep(60)
    return torch.nn.Linear(64, 10)
"""


def test_who_is_told_twice_ends_whatever_code_swallowed_the_first(tmp_path):
    (tmp_path / "net.py").write_text(UNHEARING)
    line = ["audit", f"{tmp_path}/net.py:make", "--data", "digits", "--threat", "linf:0.05"]
    with subprocess.Popen([sys.executable, "-m", "trustbound", *line], stderr=subprocess.PIPE) as process:
        started = time.monotonic()
        while process.poll() is None and time.monotonic() < started + 50:
            time.sleep(1.0)
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) in (-signal.SIGTERM, 143)
        assert time.monotonic() < started + 50


def test_certify_prints_the_ranges_of_outputs(trustbound, weights):
    line = ["certify", "crown", f"fc:{weights}", "--data", "digits", "--limit", "3"]
    line += ["--threat", "linf:0.02", "--ranges"]
    told = trustbound(*line, "--json")
    assert told.code == 0
    said = json.loads(told.out)
    assert said["n"] == len(said["lower"]) == 3
    for clean, low, high in zip(said["outputs"], said["lower"], said["upper"], strict=True):
        assert all(a <= value <= b for value, a, b in zip(clean, low, high, strict=True))
    told = trustbound(*line)
    assert told.code == 0
    assert told.out.splitlines()[0].split() == ["example", "output", "clean", "lower", "upper", "width"]
    assert "10 more outputs: --json has them all." in told.out
    assert "crown bounds 30 of 30 outputs" in told.out.splitlines()[-1]
