"""An attack is one new file and one registry row: everything else reads the row."""

import json

import pytest
from tests.surface.enlarged import command, enlarged, run

TOY = '''"""Climb the margin from the clean input with steps that shrink to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trustbound.attacks.gradient.pgd import AscentState, ascend, begin
from trustbound.attacks.searching.problem import Problem
from trustbound.threat import Access


@dataclass(frozen=True, kw_only=True)
class ToySlide:
    """Climb the margin with steps of epsilon / 4 from the clean input.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       gradients.  Sets: linf, l2.
    Update      theta <- project(theta + epsilon / 4 * steepest(gradient)).
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        per example: `steps` forwards and backwards, then 1 forward re-check.
    Randomness  none.
    Raises      UnsupportedError when the threat gives no gradients.
    Reference   none.
    Deviations  none.

    >>> ToySlide(steps=3).restarts
    1
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.GRADIENTS
    restarts: ClassVar[int] = 1

    steps: int = 8

    def init(self, problem: Problem) -> AscentState:
        """Start where nothing has changed."""
        return begin(problem, problem.neighbourhood.origin(), problem.neighbourhood.scale() / 4)

    def step(self, problem: Problem, state: AscentState) -> AscentState:
        """One step uphill."""
        return ascend(problem, state, "margin")
'''

ROW = """    AttackRow(
        name="toy-slide",
        target="trustbound.attacks.gradient.toy_slide:ToySlide",
        line="A toy that slides uphill.",
        norms=("linf", "l2"),
    ),
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with the toy added: one file, one row."""
    return enlarged(
        tmp_path_factory.mktemp("project"), "attacks/gradient/toy_slide.py", TOY, "attacks/registry.py", ROW
    )


def test_the_copy_is_what_runs(copy):
    said = run(copy, "-c", "import trustbound; print(trustbound.__file__)").stdout
    assert said.startswith(str(copy))


def test_it_is_listed_and_can_be_chosen(copy):
    rows = json.loads(command(copy, "list", "attacks", "--json").stdout)["attacks"]
    assert {"name": "toy-slide", "sets": "linf, l2"}.items() <= rows[0].items()
    # Help is wrapped at hyphens too.
    assert "toy-slide|" in "".join(command(copy, "attack", "--help").stdout.split())
    assert "'toy-slide'" in command(copy, "attack", "nonsense").stderr


def test_it_attacks(copy):
    code = (
        "import torch, trustbound as tb; from trustbound.model.exact import linear_classifier\n"
        "exact = linear_classifier(torch.eye(3)); x = torch.tensor([[0.9, 0.5, 0.1]]); y = torch.tensor([0])\n"
        "print([bool(tb.attack('toy-slide', exact.model, x, y, f'linf:{e}').success.all()) for e in (0.19, 0.21)])"
    )
    done = run(copy, "-c", code)
    assert done.stdout == "[False, True]\n", done.stderr


def test_it_is_in_the_generated_tables(copy):
    done = run(copy, "docs/generate.py")
    assert done.returncode == 0, done.stderr
    assert "| `toy-slide` | gradients | linf, l2 | A toy that slides uphill. |" in (copy / "README.md").read_text()
    assert "toy-slide|" in "".join((copy / "docs" / "cli.md").read_text().split())
    assert run(copy, "docs/generate.py", "--check").returncode == 0


def test_the_contract_is_asked_of_it_and_kept(copy):
    done = run(copy, "-m", "pytest", "-q", "tests/contract/test_attacks.py", "-k", "toy-slide", "-p", "no:xdist")
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed >= 8


def test_the_contract_can_be_broken(copy):
    """An attack that returns what it did not check is caught by the same tests."""
    path = copy / "src" / "trustbound" / "attacks" / "gradient" / "toy_slide.py"
    try:
        path.write_text(TOY.replace("problem.neighbourhood.scale() / 4", "problem.neighbourhood.scale() * 0"))
        done = run(copy, "-m", "pytest", "-q", "tests/contract/test_attacks.py", "-k", "toy-slide", "-p", "no:xdist")
        assert done.returncode == 1
        assert " failed" in done.stdout
    finally:
        path.write_text(TOY)
