"""The words of the project: parameter names, docstrings, and nothing that belongs to somebody's machine."""

import dataclasses
import inspect
import re
import subprocess
from pathlib import Path

import pytest

from trustbound.attacks.registry import ATTACKS
from trustbound.audits.checks.registry import CHECKS
from trustbound.certificates.registry import CERTIFIERS
from trustbound.hardening.registry import OBJECTIVES

ROOT = Path(__file__).resolve().parents[2]

#: What a parameter must not be called, and what it is called here.
WORDS = {
    "x": "inputs", "x0": "inputs", "x_adv": "adversarial", "advs": "adversarial", "delta": "perturbation",
    "y": "labels",
    "criterion": "targets", "preds": "logits", "diff": "margin", "p": "norm", "ord": "norm", "eps": "epsilon",
    "bounds": "box", "clip_min": "box", "clip_max": "box", "num_steps": "steps", "n_iter": "steps", "max_iter": "steps",
    "iterations": "steps", "alpha": "step_size", "lr": "step_size or learning_rate", "rel_stepsize": "step_size",
    "num_restarts": "restarts", "n_restarts": "restarts", "random_starts": "restarts", "acc_adv": "upper",
    "acc_cert": "lower", "mc": "samples", "T": "draws", "n_samples": "draws", "sigma": "noise_std", "rng": "generator",
    "random_state": "seed", "verified": "certified", "time": "cost",
}  # fmt: skip

ROWS = [
    pytest.param(table, name, id=f"{table.kind.split()[-1]}-{name}")
    for table in (ATTACKS, CERTIFIERS, CHECKS, OBJECTIVES)
    for name in table.names
]


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_a_registered_class_is_frozen_and_speaks_the_projects_words(table, name):
    found = table.load(name)
    if dataclasses.is_dataclass(found):
        assert found.__dataclass_params__.frozen
        fields = dataclasses.fields(found)
        assert all(field.kw_only for field in fields if field.init), found
        names = {field.name for field in fields}
    else:
        names = set(inspect.signature(found).parameters)
    assert not names & WORDS.keys(), {name: WORDS[name] for name in names & WORDS.keys()}
    assert found.__doc__
    assert len(found.__doc__.splitlines()) >= 3


def test_public_functions_speak_the_projects_words():
    import trustbound as tb

    for name in tb.__all__:
        found = getattr(tb, name)
        if inspect.isfunction(found):
            names = set(inspect.signature(found).parameters)
            assert not names & WORDS.keys(), (name, names & WORDS.keys())


def texts():
    """Every file that is kept under version control or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.suffix in {
            ".py",
            ".md",
            ".toml",
            ".txt",
            ".j2",
            ".yml",
            ".yaml",
            ".cfg",
            ".json",
            "",
        }:
            yield path


#: Written in parts, so that this file does not find itself.
_PLACES = [r"(?<!\w)/wo" + "rk/", r"(?<!\w)/ho" + r"me/\w+/", "file://" + "/", r"\.int" + r"ernal\b"]
_PLACES += ["local" + r"host:\d"]
MACHINES = re.compile("|".join(_PLACES))
TALK = re.compile(
    r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "as an A" + "I", "Chat" + "GPT", "Clau" + "de"]) + r")\b"
)


def found_in(pattern, allowed=()):
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in texts()
        if path.name not in allowed
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_text_names_a_machine():
    assert found_in(MACHINES) == []


def test_no_text_is_left_unfinished():
    assert found_in(TALK) == []


def test_the_search_finds_what_it_looks_for():
    assert MACHINES.search("see /wo" + "rk/main")
    assert TALK.search("# TO" + "DO: later")


def test_source_files_stay_readable():
    long = {
        str(path.relative_to(ROOT)): count
        for path in (ROOT / "src").rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert long == {}
