"""`--draws` and `--stand-in`: a defence that declares nothing, declared on the command line."""

import json

import pytest

from trustbound.record.record_file import read_record
from trustbound.record.store import Store

NETWORK = """
import torch
from torch import nn
import trustbound as tb


class Round(nn.Module):
    def forward(self, inputs):
        return (inputs * 8).round() / 8


class Shake(nn.Module):
    def forward(self, inputs):
        return inputs + 0.3 * torch.randn_like(inputs)


def rounded():
    inner = tb.load_model("fc:{weights}").module
    return named(rounding=Round(), network=inner)


def shaken():
    return named(shaking=Shake(), network=tb.load_model("fc:{weights}").module)


def named(**modules):
    whole = nn.Sequential()
    for name, module in modules.items():
        whole.add_module(name, module)
    return whole.eval()
"""
DATA = ("--data", "digits", "--limit", "40", "--threat", "linf:0.1")


@pytest.fixture
def defended(tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK.format(weights=weights))
    return "net.py"


def told(said):
    return json.loads(said.out)


def test_a_stand_in_lets_gradients_through_a_rounding(trustbound, defended):
    line = ["attack", "pgd", f"{defended}:rounded", *DATA, "--json"]
    blind = told(trustbound(*line))
    seeing = told(trustbound(*line, "--stand-in", "rounding=identity"))
    assert seeing["unbroken"] < blind["unbroken"] - 5
    assert seeing["cost"]["forwards"] <= blind["cost"]["forwards"]  # what breaks early is asked no more


def test_draws_are_averaged_and_counted(trustbound, defended):
    line = ["attack", "pgd", f"{defended}:shaken", *DATA, "--params", '{"steps": 3}', "--json"]
    costs = [told(trustbound(*line, "--draws", draws))["cost"]["forwards"] for draws in (1, 4)]
    assert 2 * costs[0] < costs[1] <= 4 * costs[0] + 40 * 4


def test_an_audit_goes_on_with_the_same_declaration_and_with_no_other(trustbound, defended, tmp_path):
    line = ["audit", f"{defended}:rounded", *DATA[:2], "--limit", "16", *DATA[4:], "--budget", "quick", "--curve", "0"]
    run = tmp_path / "run"
    assert trustbound(*line, "--stand-in", "rounding=identity", "--run", run).code in (0, 3)
    assert Store.asked(run)["adaptation"] == [1, ["rounding=identity"], False]
    assert "--stand-in rounding=identity" in read_record(run).command
    assert "another --run" in trustbound(*line, "--stand-in", "rounding=tanh", "--run", run).error
    assert "another --run" in trustbound(*line, "--run", run).error
    assert trustbound(*line, "--stand-in", "rounding=identity", "--run", run).code in (0, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--stand-in", "roundig=identity"], "did you mean 'rounding'?"),
        (["--stand-in", "x=identity"], "it has rounding, network"),
        (["--stand-in", "rounding=sign"], "one of identity, relu, sigmoid, softplus, tanh; got 'sign'"),
        (["--stand-in", "rounding"], "written MODULE=NAME"),
        (["--stand-in", "=identity"], "written MODULE=NAME"),
        (["--stand-in", "rounding=relu", "--stand-in", "rounding=tanh"], "was given two"),
    ],
)
def test_what_cannot_be_declared_is_refused_by_name(trustbound, defended, given, said):
    assert said in trustbound("attack", "pgd", f"{defended}:rounded", *DATA, *given).error


def test_a_callable_over_arrays_has_no_modules(trustbound, defended):
    with open(defended, "a") as file:
        file.write("\n\ndef scores(inputs):\n    return inputs.reshape(len(inputs), -1)[:, :10]\n")
    refused = trustbound(
        "attack", "square", f"{defended}:scores", "--access", "scores", *DATA, "--stand-in", "a=identity"
    )
    assert "which has none" in refused.error
