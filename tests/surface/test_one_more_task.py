"""A task is one new file and one registry row: everything else reads the row."""

import json

import pytest
from tests.surface.enlarged import command, enlarged, run

TOY = '''"""Several answers at once: right where every sign is the label's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustbound.errors import InputError
from trustbound.metrics.margin import rounding_error
from trustbound.tasks.task import Requirement, Task


@dataclass(frozen=True)
class ToySigns(Task):
    """K yes-or-no questions: an example is right where each output has its label's sign."""

    name: ClassVar[str] = "toy-signs"
    returns: ClassVar[str] = "logits (B, K)"

    def fitted(self, outputs: Any) -> Tensor | None:
        """(B, K) floating."""
        return outputs if isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.is_floating_point() else None

    def advice(self, outputs: Any) -> str:
        """Nothing more."""
        return "Return one logit for each question."

    def checked_labels(self, labels: Tensor) -> Tensor:
        """(B, K) of 0 and 1."""
        if labels.dim() != 2 or labels.is_floating_point() or bool(((labels != 0) & (labels != 1)).any()):
            raise InputError(f"`labels` must be (B, K) of 0 and 1; got {tuple(labels.shape)} {labels.dtype}")
        return labels.to(torch.int64)

    def check_fit(self, labels: Tensor, shape: tuple[int, ...]) -> None:
        """As many labels as outputs."""
        if tuple(labels.shape[1:]) != shape:
            raise InputError(f"a label for each of {shape[0]} outputs is needed; got {labels.shape[1]}")

    def scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """0, and minus each logit that should be positive, plus each that should not."""
        turned = outputs.double() * (1 - 2 * labels)
        return torch.cat((torch.zeros_like(turned[:, :1]), turned), 1)

    def rounding_error(self, outputs: Tensor, labels: Tensor, precision: torch.dtype | None = None) -> Tensor:
        """Of the largest logit."""
        return rounding_error(outputs, precision)

    def requirement(self, labels: Tensor, width: int, targets: Tensor | None = None) -> Requirement:
        """Each logit times its sign."""
        signs = (2 * labels - 1).double()
        return Requirement(torch.diag_embed(signs), torch.zeros_like(signs))

    def payload(self, outputs: Tensor, labels: Tensor) -> list[dict[str, Any]]:
        """How many answers are right."""
        return [{"right_answers": int(one)} for one in ((outputs > 0) == (labels > 0)).sum(1)]
'''

ROW = """    TaskRow(
        name="toy-signs",
        target="trustbound.tasks.toy_signs:ToySigns",
        line="Yes or no, several times.",
        example="toy-signs",
        returns="logits (B, K)",
        labels="0 or 1, (B, K) int64",
        right="answered rightly throughout",
    ),
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with the toy added: one file, one row behind the default's."""
    root = enlarged(tmp_path_factory.mktemp("project"), "tasks/toy_signs.py", TOY, "tasks/registry.py", ROW)
    return root


def test_it_is_listed_and_in_the_generated_tables(copy):
    rows = json.loads(command(copy, "list", "tasks", "--json").stdout)["tasks"]
    assert {"name": "toy-signs", "outputs": "logits (B, K)"}.items() <= rows[0].items()
    done = run(copy, "docs/generate.py")
    assert done.returncode == 0, done.stderr
    assert "| `toy-signs` | logits (B, K) | 0 or 1, (B, K) int64 | Yes or no," in (copy / "README.md").read_text()


def test_it_is_attacked_proven_audited_and_reported(copy):
    """A linear network whose outputs are its inputs less a half: the least of them decides, at a known distance."""
    code = (
        "import torch, trustbound as tb; from torch import nn\n"
        "net = nn.Linear(2, 2); net.weight.data = torch.eye(2); net.bias.data = torch.full((2,), -0.5)\n"
        "x = torch.tensor([[0.8, 0.1], [0.6, 0.1]]).repeat(30, 1); y = torch.tensor([[1, 0]]).repeat(60, 1)\n"
        "model = tb.wrap(net, task='toy-signs'); data = tb.LabelledSet(x, y, task='toy-signs')\n"
        "record = tb.audit(model, data, ['linf:0.2'], budget='quick')\n"
        "b = record.brackets[0]; print(b.certified, b.broken, b.unknown, b.misclassified)\n"
        "told = [row.detail for row in record.examples]\n"
        "print(sorted({(one['right_answers'], one.get('adversarial_right_answers')) for one in told}, key=str))\n"
        "page = tb.write_report(record, 'page.html').read_text()\n"
        "print('answered rightly throughout' in page, 'not defined for the task toy-signs' in page)\n"
        "try: tb.attack('pgd', tb.wrap(nn.Linear(2, 1), task='toy-signs'), x, y, 'linf:0.1')\n"
        "except tb.InputError as error: print(error)\n"
    )
    done = run(copy, "-c", code)
    assert done.returncode == 0, done.stderr
    counts, details, said, refused = done.stdout.splitlines()
    assert counts == "30 30 0 0"
    assert details == "[(2, 1), (2, None)]"
    assert said == "True True"
    assert refused == "a label for each of 1 outputs is needed; got 2"


def test_the_contract_is_asked_of_it_and_kept(copy):
    done = run(copy, "-m", "pytest", "-q", "tests/contract/test_tasks.py", "-k", "toy-signs", "-p", "no:xdist")
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(done.stdout.rsplit(" passed", 1)[0].split()[-1]) >= 20


def test_the_contract_can_be_broken(copy):
    """A task whose scores call everything right is caught by the same tests."""
    path = copy / "src" / "trustbound" / "tasks" / "toy_signs.py"
    try:
        path.write_text(TOY.replace("outputs.double() * (1 - 2 * labels)", "-outputs.double().abs()"))
        done = run(copy, "-m", "pytest", "-q", "tests/contract/test_tasks.py", "-k", "toy-signs", "-p", "no:xdist")
        assert done.returncode == 1
        assert " failed" in done.stdout
    finally:
        path.write_text(TOY)
