"""Bad input: exit code 2, one line that says what was required, what came and what to do; no traceback."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

COMMANDS = {
    "audit": ["audit"],
    "attack": ["attack", "pgd"],
    "certify": ["certify", "interval"],
}
SMALL = ["--budget", "quick", "--curve", "0"]


def arguments(command, model, *, data="digits", threat="linf:0.05", more=()):
    """A command line for each command that takes a model."""
    small = SMALL if command == "audit" else []
    limit = ["--limit", "10"] if data == "digits" else []
    return [*COMMANDS[command], model, "--data", data, "--threat", threat, *limit, *small, *more]


@pytest.fixture(params=list(COMMANDS))
def command(request):
    return request.param


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Default run directories land in the test's own folder."""
    monkeypatch.chdir(tmp_path)


def saved(path, inputs, labels):
    np.savez(path, inputs=inputs, labels=labels)
    return path


def digits(n=12):
    import trustbound as tb

    data = tb.load_data("digits", limit=n)
    return data.inputs.numpy(), data.labels.numpy()


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (print, ("PWNED",))


def test_missing_weights(trustbound, command):
    said = trustbound(*arguments(command, "fc:nowhere.safetensors")).error
    assert "nowhere.safetensors" in said


def test_truncated_weights(trustbound, command, weights, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-100])
    assert "cut.safetensors" in trustbound(*arguments(command, f"fc:{cut}")).error
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"")
    assert "empty.safetensors" in trustbound(*arguments(command, f"fc:{empty}")).error


def test_pickled_code_is_not_run(trustbound, command, tmp_path):
    bad = tmp_path / "bad.pt"
    torch.save({"state_dict": Code()}, bad)
    told = trustbound(*arguments(command, f"fc:{bad}", more=["--arguments", '{"widths": [4]}']))
    assert "PWNED" not in told.out + told.err
    assert "trust-pickle" in told.error or "trust_pickle" in told.error
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(Code()))
    told = trustbound(*arguments(command, f"fc:{plain}"))
    assert "PWNED" not in told.out + told.err
    assert told.error


def test_weights_of_another_shape(trustbound, command, weights, tmp_path):
    tensors = load_file(weights)
    name = next(iter(tensors))
    tensors[name] = tensors[name][:-1].contiguous()
    other = tmp_path / "other.safetensors"
    save_file(tensors, other)
    more = ["--arguments", '{"widths": [12], "input_shape": [1, 8, 8], "classes": 10}']
    assert name in trustbound(*arguments(command, f"fc:{other}", more=more)).error


def test_inputs_of_another_shape(trustbound, command, weights, tmp_path):
    path = saved(tmp_path / "wide.npz", np.random.default_rng(0).random((8, 1, 9, 9), dtype=np.float32), np.arange(8))
    said = trustbound(*arguments(command, f"fc:{weights}", data=path)).error
    assert "(1, 9, 9)" in said or "1, 9, 9" in said


def test_labels_out_of_range(trustbound, command, weights, tmp_path):
    inputs, labels = digits()
    labels[3] = 10
    said = trustbound(*arguments(command, f"fc:{weights}", data=saved(tmp_path / "ten.npz", inputs, labels))).error
    assert "0..9" in said
    labels[3] = -1
    path = saved(tmp_path / "minus.npz", inputs, labels)
    assert "-1" in trustbound(*arguments(command, f"fc:{weights}", data=path)).error


def test_inputs_outside_the_box(trustbound, command, weights, tmp_path):
    inputs, labels = digits()
    path = saved(tmp_path / "normalised.npz", (inputs - 0.3) / 0.3, labels)
    said = trustbound(*arguments(command, f"fc:{weights}", data=path)).error
    assert "box" in said
    assert "mean" in said
    # Saying that the data has another box does not make the model's box any wider.
    wide = trustbound(*arguments(command, f"fc:{weights}", data=path, more=["--data-box=-5,5"])).error
    assert "box [0, 1]" in wide


def test_nan_logits(trustbound, command, weights, tmp_path):
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("bias"))
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    bad = tmp_path / "nan.safetensors"
    save_file(tensors, bad)
    more = ["--arguments", '{"widths": [12], "input_shape": [1, 8, 8], "classes": 10}']
    said = trustbound(*arguments(command, f"fc:{bad}", more=more)).error
    assert "finite" in said


@pytest.mark.parametrize(
    ("threat", "said"),
    [
        ("linf:-0.1", "epsilon"),
        ("linf:nan", "epsilon"),
        ("linf:8", "linf:inf"),
        ("l2:9", "l2:inf"),
        ("l1:65", "l1:inf"),
        ("l0:65", "l0:inf"),
        ("linf", "NAME:SIZE"),
        ("chebyshev:0.1", "NAME:SIZE"),
        ("linf:0.1;goal=confuse", "goal"),
        ("linf:0.1;goal=target:10", "target"),
        ("linf:0.1;access=everything", "access"),
        ("linf:1/0", "epsilon"),
        ("", "NAME:SIZE"),
    ],
)
def test_threats_that_are_none(trustbound, weights, threat, said):
    for command in COMMANDS:
        assert said in trustbound(*arguments(command, f"fc:{weights}", threat=threat)).error


def test_epsilon_beyond_the_box_is_refused_in_a_dry_run_too(trustbound, weights):
    assert "linf:inf" in trustbound(*arguments("audit", f"fc:{weights}", threat="linf:8", more=["--dry-run"])).error


def test_a_run_directory_that_cannot_be_written(trustbound, weights, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", "/proc/trustbound-run", tmp_path / "file"):
        said = trustbound(*arguments("audit", f"fc:{weights}", more=["--run", place])).error
        assert "writable" in said
        assert "--run" in said


def test_the_run_directory_of_another_model(trustbound, other_weights, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    said = trustbound(*arguments("audit", f"fc:{other_weights}", more=["--run", run])).error
    assert "another audit" in said
    assert "model was" in said
    assert (run / "record.json").read_bytes() == before["record.json"]
    assert (run / "audit.sqlite").read_bytes() == before["audit.sqlite"]


def test_the_same_weights_behind_another_normalisation_are_another_model(trustbound, weights, tmp_path):
    run = tmp_path / "run"
    line = arguments("audit", f"fc:{weights}", more=["--run", run])
    assert trustbound(*line).code == 0
    assert "normalisation" in trustbound(*line, "--mean", "0.1").error
    assert trustbound(*line).code == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--params", "{"], "JSON"),
        (["--params", "[1]"], "JSON object"),
        (["--params", '{"nonsense": 1}'], "nonsense"),
        (["--params", '{"steps": 0}'], "steps"),
        (["--threat", "l2:0.1"], "one --threat"),
        (["--save", "/proc/nowhere/a.safetensors"], "nowhere"),
    ],
)
def test_numbers_of_an_attack(trustbound, weights, more, said):
    assert said in trustbound(*arguments("attack", f"fc:{weights}", more=more)).error


@pytest.mark.parametrize(
    "more",
    [
        ["--seed", "-1"],
        ["--limit", "0"],
        ["--batch-size", "0"],
        ["--budget", "enormous"],
        ["--fail-under", "1.5"],
        ["--time", "soon"],
        ["--time", "-3m"],
        ["--time", "nan"],
        ["--box", "1"],
        ["--box", "1,0"],
        ["--mean", "a,b"],
        ["--std", "0"],
        ["--device", "abacus"],
        ["--device", "cuda:99"],
        ["--resize", "big"],
        ["--resize", "8"],
        ["--split", "middle"],
        ["--data", "digitz"],
        ["--arguments", "["],
        ["--output", "logits"],
        ["--training", "nowhere.npz"],
        ["--nonsense"],
    ],
    ids=" ".join,
)
def test_options_of_an_audit(trustbound, weights, more):
    assert trustbound(*arguments("audit", f"fc:{weights}", more=more)).error


@pytest.mark.parametrize("model", ["fcc:weights.safetensors", "nowhere.py:net", "os:nothing", "zoo", "", "json:loads"])
def test_models_that_are_none(trustbound, model):
    assert trustbound(*arguments("audit", model)).error


def test_a_layer_that_no_certifier_knows_is_named(trustbound, tmp_path):
    model = tmp_path / "mish.py"
    model.write_text(
        "from torch import nn\n\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Mish(), nn.Linear(16, 10)).eval()\n"
    )
    for name in ("interval", "crown", "lipschitz"):
        said = trustbound("certify", name, f"{model}:net", "--data", "digits", "--limit", 5, "--threat", "l2:0.1").error
        assert "no proof" in said
        assert "Mish" in said
        assert "audit" in said.lower()
    told = trustbound(*arguments("audit", f"{model}:net", more=["--json", "--run", tmp_path / "run"]))
    assert told.code == 0, told.err
    import json

    bracket = json.loads(told.out)["brackets"][0]
    assert bracket["lower"] == 0.0
    assert bracket["no_proof"].startswith("no proof")


@pytest.mark.parametrize(
    "line",
    [
        ["report", "nowhere"],
        ["compare", "nowhere", "nowhere"],
        ["compare", "nowhere"],
        ["compare"],
        ["gate", "nowhere", "--upper", "0.5"],
        ["gate", "nowhere"],
        ["list", "attackz"],
        ["list"],
        ["nonsense"],
        ["attack", "nonsense", "fc:a", "--data", "digits", "--threat", "linf:0.1"],
        ["train", "fc", "--data", "digits"],
        ["train", "fc", "--data", "digits", "--out", "a.safetensors", "--params", '{"steps": 3}'],
        ["train", "fc", "--data", "digits", "--out", "a.safetensors", "--arguments", "[]"],
        [
            "train",
            "fc",
            "--data",
            "digits",
            "--out",
            "a.safetensors",
            "--threat",
            "linf:99",
            "--objective",
            "pgd",
        ],
        ["train", "fc", "--data", "digits", "--out", "/proc/nowhere/a.safetensors", "--epochs", "1"],
    ],
    ids=" ".join,
)
def test_other_commands(trustbound, line):
    assert trustbound(*line).error


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_threat_can_be_asked_about_once(trustbound, weights, more):
    twice = ["--threat", "linf:0.050;access=gradients", *more]
    said = trustbound(*arguments("audit", f"fc:{weights}", more=twice)).error
    assert "each threat can be asked about once; got linf:0.05 again" in said


@pytest.mark.parametrize("option", ["split", "interpolation", "data-dir", "resize", "class-index", "label-column"])
def test_an_option_that_the_data_has_no_use_for_is_refused(trustbound, command, weights, tmp_path, option):
    inputs, labels = digits()
    path = saved(tmp_path / "a.npz", inputs, labels)
    value = {"split": "train", "interpolation": "nearest", "resize": "4"}.get(option, str(tmp_path))
    said = trustbound(*arguments(command, f"fc:{weights}", data=path, more=[f"--{option}", value])).error
    assert option.replace("-", "_") in said


def test_weights_twice_are_refused(trustbound, command, weights):
    said = trustbound(*arguments(command, weights, more=["--weights", weights])).error
    assert "weights come from one file" in said


def test_time_chooses_the_budget(trustbound, weights):
    more = ["--time", "1m", "--budget", "quick"]
    said = trustbound("audit", f"fc:{weights}", "--data", "digits", "--threat", "linf:0.05", *more).error
    assert "--time chooses the budget; got --budget quick" in said


def test_a_box_beside_a_wrapped_model_is_refused(trustbound, command, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\nimport trustbound as tb\n"
        "def net():\n    return tb.wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))\n"
    )
    for more in (["--box=-1,1"], ["--mean", "0.5"], ["--std", "2"], ["--output", "0"]):
        assert "wrapped already" in trustbound(*arguments(command, f"{tmp_path / 'net.py'}:net", more=more)).error


def train_arguments(tmp_path, data, *more):
    return ["train", "fc", "--data", data, "--epochs", "1", "--out", tmp_path / "w.safetensors", "--json", *more]


def test_training_on_data_without_parts_reports_no_test_accuracy(trustbound, tmp_path):
    inputs, labels = digits(60)
    whole = saved(tmp_path / "whole.npz", inputs, labels)
    told = trustbound(*train_arguments(tmp_path, whole, "--arguments", '{"widths": [8]}'))
    assert told.code == 0, told.err
    assert "nothing is left to test on" in told.err
    assert json.loads(told.out)["history"][0]["validation_accuracy"] is None
    parts = tmp_path / "parts.npz"
    np.savez(parts, x_train=inputs, y_train=labels, x_test=inputs[:20], y_test=labels[:20])
    told = trustbound(*train_arguments(tmp_path, parts, "--arguments", '{"widths": [8]}'))
    assert told.code == 0, told.err
    assert json.loads(told.out)["history"][0]["validation_accuracy"] is not None
    assert "split" in trustbound(*train_arguments(tmp_path, parts, "--split", "test")).error
