"""A kind of perturbation is one new file and one registry row: everything else reads the row."""

import json

import pytest
from tests.surface.enlarged import command, enlarged, run

TOY = '''"""Inputs pulled towards grey."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from trustbound.record.box import Box
from trustbound.threat.sets.transformation import Pointwise, check_limit


class Contrast(Pointwise):
    """Takes the share θ of the way to the middle of the box, or as much away from it."""

    columns: ClassVar[int] = 1

    @staticmethod
    def check(limit: float, box: Box, shape: tuple[int, ...]) -> None:
        """No further than the middle."""
        check_limit("contrast", limit, 1.0, "of the way")

    @staticmethod
    def apply(inputs: Tensor, theta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The pulled inputs."""
        share = theta.reshape(-1, *(1,) * (inputs.dim() - 1))
        return (inputs + share * ((low + high) / 2 - inputs)).clamp(low, high)
'''

ROW = """    SetRow(
        name="contrast",
        target="trustbound.threat.sets.contrast:Contrast",
        line="Inputs are pulled towards the middle of the box.",
        unit="share of the way",
        example="contrast:0.5",
        combines=True,
    ),
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with the toy added: one file, one row."""
    return enlarged(tmp_path_factory.mktemp("project"), "threat/sets/contrast.py", TOY, "threat/sets/registry.py", ROW)


def test_it_is_listed_and_in_the_generated_tables(copy):
    said = command(copy, "list", "sets", "--json").stdout
    assert json.loads(said)["sets"][0]["example"] == "contrast:0.5"
    done = run(copy, "docs/generate.py")
    assert done.returncode == 0, done.stderr
    assert "| `contrast:0.5` | share of the way | Inputs are pulled" in (copy / "README.md").read_text()


def test_it_is_attacked_audited_and_joined_with_others(copy):
    """A linear network on one pixel: pulled to the middle of the box its margin is gone."""
    code = (
        "import torch, trustbound as tb; from trustbound.model.exact import linear_classifier\n"
        "model = linear_classifier(torch.eye(2)).model; x = torch.tensor([[0.8, 0.4]]).repeat(60, 1)\n"
        "y = torch.zeros(60, dtype=torch.int64)\n"
        "for text in ('contrast:0.9', 'contrast:0.5,brightness:0.1'):\n"
        "    record = tb.audit(model, tb.LabelledSet(x, y), [text], budget='quick')\n"
        "    print(text, record.brackets[0].upper, record.brackets[0].change)\n"
        "try: tb.attack('pgd', model, x, y, 'contrast:2')\n"
        "except tb.InputError as error: print(error)\n"
    )
    done = run(copy, "-c", code)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "contrast:0.9 1.0 any contrast by up to 0.9 share of the way either way"
    assert second.startswith("contrast:0.5,brightness:0.1 1.0 any contrast")
    assert third == "contrast must be at most 1 of the way, beyond which nothing new lies; got 2"
