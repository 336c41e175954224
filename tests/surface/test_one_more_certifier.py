"""A certifier is one new file and one registry row: everything else reads the row."""

import json

import pytest
from tests.surface.enlarged import command, enlarged, run

TOY = '''"""The better of two bounds, row by row."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.methods.lipschitz import Lipschitz
from trustbound.certificates.region import Region
from trustbound.certificates.specification import LowerBound, Certifier


@dataclass(frozen=True, kw_only=True, eq=False)
class ToyBest(Certifier):
    """The larger of the interval bound and the product of layer norms.

    Bound       Lower. Deterministic: holds for every input of the region.
    Needs       a network that can be read into a list of operations.  Norms: linf, l2.
    Update      none of its own.
    Shapes      region (B, *F); specification (B, K, C); returns (B, K) float64.
    Cost        that of both.
    Randomness  none.
    Raises      nothing of its own.
    Reference   none.
    Deviations  none.

    >>> ToyBest().memory > 0
    True
    """

    def bound(self, graph: Graph, region: Region, specification: Tensor, least: bool) -> LowerBound:
        """Bound with both, keep the better."""
        first = Interval().bound(graph, region, specification, least)
        return first.better(Lipschitz().bound(graph, region, specification, least))
'''

ROW = """    CertifierRow(
        name="toy-best",
        target="trustbound.certificates.methods.toy_best:ToyBest",
        line="the better of two bounds",
        norms=("linf", "l2"),
        deterministic=True,
        paper="none",
    ),
"""

#: A linear network of two features, whose exact l2 radius at (0.75, 0.25) is 0.5 / √2, and its audit.
LINEAR = (
    "import torch, trustbound as tb; from trustbound.model.exact import linear_classifier\n"
    "model = linear_classifier(torch.eye(2)).model; x = torch.tensor([[0.75, 0.25]]).repeat(60, 1)\n"
    "y = torch.zeros(60, dtype=torch.int64)\n"
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with the toy added: one file, one row."""
    return enlarged(
        tmp_path_factory.mktemp("project"), "certificates/methods/toy_best.py", TOY, "certificates/registry.py", ROW
    )


def contract(root, *files, only="toy-best"):
    return run(root, "-m", "pytest", "-q", *files, "-k", only, "-p", "no:xdist")


def test_the_copy_is_what_runs(copy):
    said = run(copy, "-c", "import trustbound; print(trustbound.__file__)").stdout
    assert said.startswith(str(copy))


def test_it_is_listed_and_can_be_chosen(copy):
    rows = json.loads(command(copy, "list", "certifiers", "--json").stdout)["certifiers"]
    assert rows[0] == {"name": "toy-best", "sets": "linf l2", "line": "the better of two bounds"}
    # Help is wrapped at hyphens too.
    assert "{toy-best|" in "".join(command(copy, "certify", "--help").stdout.split())
    assert "'toy-best'" in command(copy, "certify", "nonsense").stderr


def test_it_proves_from_python_and_refuses_what_its_row_does_not_say(copy):
    code = LINEAR + (
        "print([bool(tb.certify('toy-best', model, x[:1], y[:1], f'l2:{e}').certified) for e in (0.35, 0.36)])\n"
        "try: tb.certify('toy-best', model, x[:1], y[:1], 'l1:0.1')\n"
        "except tb.UnsupportedError as error: print(error)\n"
    )
    done = run(copy, "-c", code)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "[True, False]"
    assert second.startswith("no proof: toy-best serves linf, l2; got l1")


def test_it_is_in_the_generated_tables(copy):
    done = run(copy, "docs/generate.py")
    assert done.returncode == 0, done.stderr
    assert "| `toy-best` | linf, l2 | the better of two bounds |" in (copy / "README.md").read_text()
    assert "{toy-best|" in "".join((copy / "docs" / "cli.md").read_text().split())
    assert run(copy, "docs/generate.py", "--check").returncode == 0


def test_audits_run_it_where_it_serves(copy):
    """First of the rows, so the cheapest: it proves what the first search left, and the bracket rests on it."""
    code = LINEAR + (
        "record = tb.audit(model, tb.LabelledSet(x, y), ['l2:0.2', 'l1:0.2'], budget='quick', curve_examples=0)\n"
        "print([[s.settled for s in record.steps if s.threat == t and s.name == 'proof-toy-best']"
        " for t in ('l2:0.2', 'l1:0.2')])\n"
        "print({row.settled_by for row in record.examples}, record.brackets[0].lower)\n"
    )
    done = run(copy, "-c", code)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "[[60], []]"
    assert "proof-toy-best" in second
    assert second.endswith(" 1.0")


def test_the_contract_is_asked_of_it_and_kept(copy):
    files = "certificates/test_certify.py", "certificates/test_log_softmax.py", "contract/test_registries.py"
    done = contract(copy, *(f"tests/{file}" for file in files), "tests/surface/test_text.py")
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed >= 7


def test_every_attack_is_tried_on_what_it_proves(copy):
    done = contract(copy, "tests/truth/test_sandwich.py", only="toy-best and linf and (fgsm or bim or apgd)")
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed >= 4


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        # A bound that is too large by a half is above the truth of a linear network, and attacks break it.
        ("first.value + 0.5, run=first.run + 0.5", "test_certified_follows_the_exact_radius"),
        # One that takes more for rounding than is due proves less than there is.
        ("first.value, run=first.value - 1.0", "test_certified_follows_the_exact_radius"),
    ],
)
def test_the_contract_can_be_broken(copy, broken, caught):
    path = copy / "src" / "trustbound" / "certificates" / "methods" / "toy_best.py"
    kept = "return first.better(Lipschitz().bound(graph, region, specification, least))"
    assert TOY.count(kept) == 1
    try:
        path.write_text(TOY.replace(kept, f"return Bound(value={broken})"))
        done = contract(copy, "tests/certificates/test_certify.py")
        assert done.returncode == 1, done.stdout[-3000:]
        assert f"{caught}[toy-best]" in done.stdout
    finally:
        path.write_text(TOY)
