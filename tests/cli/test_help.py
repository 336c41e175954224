"""What a newcomer types: a misspelt command, the parameters of an attack, what this machine lacks."""

import inspect
import json

import pytest

from trustbound.attacks.registry import ATTACKS
from trustbound.certificates.registry import CERTIFIERS
from trustbound.cli.commands import doctor
from trustbound.hardening.registry import OBJECTIVES


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("audti", "audit"),
        ("Attack", "attack"),
        ("certfy", "certify"),
        ("leaderbord", "leaderboard"),
        ("exprt", "export"),
    ],
)
def test_a_misspelt_command_is_answered_with_the_nearest(trustbound, typed, meant):
    told = trustbound(typed, "net.pt", "--data", "digits")
    assert told.error == f"Error: No such command {typed!r}. Did you mean {meant!r}?"


def test_a_command_that_is_like_none_is_answered_with_all(trustbound):
    assert "No such command 'zzz'. Choose one of audit, train, " in trustbound("zzz").error


@pytest.mark.parametrize(
    ("kind", "table"), [("attacks", ATTACKS), ("certifiers", CERTIFIERS), ("objectives", OBJECTIVES)]
)
def test_every_member_lists_its_parameters(trustbound, kind, table):
    for name in table.names:
        told = json.loads(trustbound("list", kind, name, "--json").out)
        known = inspect.signature(table.load(name)).parameters
        assert [one["name"] for one in told["parameters"]] == list(known)
        assert told["about"]
        assert ">>>" not in told["about"]
        for one in told["parameters"]:
            default = known[one["name"]].default
            assert one["required"] == (default is inspect.Parameter.empty)
            assert one["required"] or one["default"] in (default, str(default))


def test_parameters_are_for_reading_and_names_for_finding(trustbound):
    out = trustbound("list", "attacks", "pgd").out
    assert out.startswith("pgd: ")
    assert "Reference" in out
    (line,) = [line for line in out.splitlines() if line.startswith("  steps ")]
    assert line.split() == ["steps", "int", str(inspect.signature(ATTACKS.load("pgd")).parameters["steps"].default)]
    assert "Did you mean 'pgd'?" in trustbound("list", "attacks", "pdg").error
    assert "of data there are names alone" in trustbound("list", "data", "digits").error


def test_doctor_names_each_extra_with_its_packages_and_what_is_missing(trustbound, monkeypatch, tmp_path):
    required = [
        "torch>=2.6",
        "numpy>=1.26; extra == 'there'",
        "no-such-package>=3.1; extra == 'gone'",
        "click>=999.0 ; extra == 'old'",
        'rich; extra == "bare"',
        "pytest>=8; extra == 'dev'",
        "trustbound[there,gone]; extra == 'dev'",
    ]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: required)
    monkeypatch.setenv("TRUSTBOUND_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    told = json.loads(trustbound("doctor", "--json").out)
    assert set(told["extras"]) == {"there", "gone", "old", "bare"}
    assert told["extras"]["there"]["numpy"] == told["versions"]["numpy"]
    assert told["extras"]["gone"] == {"no-such-package": "missing (3.1 or newer)"}
    assert told["extras"]["old"]["click"].endswith(" needs 999.0 or newer")
    said = "\n".join(told["missing"])
    assert "extra gone (no-such-package): pip install 'trustbound[gone]'" in said
    assert "extra old (click)" in said
    assert "there" not in said
    assert "bare" not in said
    assert "a C++ compiler" in said
    out = trustbound("doctor").out
    assert out.splitlines()[-len(told["missing"]) :] == [f"  {one}" for one in told["missing"]]


def test_doctor_reads_the_real_metadata():
    assert doctor._extras()["train"].keys() == {"lightning-fabric"}
