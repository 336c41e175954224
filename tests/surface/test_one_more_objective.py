"""A training objective is one new file and one registry row: everything else reads the row."""

import json

import pytest
from tests.surface.enlarged import command, enlarged, run

TOY = '''"""Part of the loss at the clean input, part at the worst point of a search; the parts move with the steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from trustbound.attacks.gradient.pgd import PGD
from trustbound.hardening.objectives.context import Batch, Context
from trustbound.hardening.objectives.objective import Outcome, State, learn_at


@dataclass(frozen=True, kw_only=True)
class ToyHalves:
    """Cross-entropy at clean and at adversarial points, the share of the latter growing over the first ten steps.

    Lifts       robust accuracy.
    Loss        (1 - s) CE(f(x), y) + s CE(f(theta), y), s rising to 1/2 over the first ten steps.
    State       seen: steps so far.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C); loss ().
    Metrics     robust_accuracy: share of the batch classified correctly at its adversarial points.
    Cost        per example: `steps` + 2 forwards and backwards.
    Randomness  the start point.
    Raises      nothing.
    Reference   none.
    Deviations  none.

    >>> ToyHalves(steps=3).steps
    3
    """

    threat: ClassVar[bool] = True

    steps: int = 3

    def init(self, context: Context) -> State:
        """No step yet."""
        return {"seen": 0}

    def step(self, context: Context, state: State, batch: Batch) -> Outcome:
        """Mean loss of both."""
        adversarial = context.inner(PGD(steps=self.steps), batch)
        share = 0.5 * min(1.0, (state["seen"] + 1) / 10)
        clean = F.cross_entropy(context.logits(batch.inputs), batch.labels)
        worst, metrics = learn_at(context, adversarial, batch.labels)
        return torch.lerp(clean, worst, share), {"seen": state["seen"] + 1}, metrics
'''

ROW = """    ObjectiveRow(
        name="toy-halves",
        target="trustbound.hardening.objectives.toy_halves:ToyHalves",
        line="A toy that learns by halves.",
        threat=True,
        lifts="robust accuracy",
    ),
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with the toy added: one file, one row."""
    return enlarged(
        tmp_path_factory.mktemp("project"), "hardening/objectives/toy_halves.py", TOY, "hardening/registry.py", ROW
    )


def contract(root):
    return run(root, "-m", "pytest", "-q", "tests/contract/test_objectives.py", "-k", "toy-halves", "-p", "no:xdist")


def test_the_copy_is_what_runs(copy):
    said = run(copy, "-c", "import trustbound; print(trustbound.__file__)").stdout
    assert said.startswith(str(copy))


def test_it_is_listed_and_can_be_chosen(copy):
    rows = json.loads(command(copy, "list", "objectives", "--json").stdout)["objectives"]
    assert rows[0] == {"name": "toy-halves", "line": "A toy that learns by halves."}
    # Help is wrapped at hyphens too.
    assert "toy-halves|" in "".join(command(copy, "train", "--help").stdout.split())
    refused = command(copy, "train", "fc", "--data", "digits", "--out", "a.safetensors", "--objective", "nonsense")
    assert "'toy-halves'" in refused.stderr


def test_it_trains_from_the_command_line(copy, tmp_path):
    done = command(
        copy, "train", "fc", "--data", "digits", "--limit", "100", "--out", str(tmp_path / "a.safetensors"), "--epochs",
        "1", "--objective", "toy-halves", "--params", '{"steps": 2}', "--threat", "linf:0.1", "--arguments",
        '{"widths": [8]}', "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["recipe"]["objective"] == {"name": "toy-halves", "steps": 2}
    assert document["evaluations_per_image"] == 4


def test_it_is_in_the_generated_tables(copy):
    done = run(copy, "docs/generate.py")
    assert done.returncode == 0, done.stderr
    assert "| `toy-halves` | robust accuracy | A toy that learns by halves. |" in (copy / "README.md").read_text()
    assert "toy-halves|" in "".join((copy / "docs" / "cli.md").read_text().split())
    assert run(copy, "docs/generate.py", "--check").returncode == 0


def test_the_contract_is_asked_of_it_and_kept(copy):
    done = contract(copy)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed >= 8


@pytest.mark.parametrize(
    ("kept", "broken", "caught"),
    [
        # What a step remembers anywhere but in its state is lost with the process.
        ('state["seen"] + 1) / 10', 'context.updates + 1) / 10', "test_killed_and_given_again_is_the_same_run"),
        # A pass that is not the context's is not counted.
        ("context.logits(batch.inputs)", "context.model(batch.inputs)", "test_reported_cost_is_counted_cost"),
    ],
)  # fmt: skip
def test_the_contract_can_be_broken(copy, kept, broken, caught):
    path = copy / "src" / "trustbound" / "hardening" / "objectives" / "toy_halves.py"
    assert TOY.count(kept) == 1
    try:
        path.write_text(TOY.replace(kept, broken))
        done = contract(copy)
        assert done.returncode == 1, done.stdout[-3000:]
        assert f"FAILED tests/contract/test_objectives.py::{caught}" in done.stdout
    finally:
        path.write_text(TOY)
