"""A norm's name decides something in the sets themselves and in algorithms that are made for one norm: nowhere else."""

import re
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src" / "trustbound"

#: What is about norms: sets, attacks and proofs whose formulas differ by norm, closed forms, lengths of changes.
MADE_FOR_NORMS = (
    "threat/sets/",
    "attacks/gradient/",
    "attacks/minimal/",
    "attacks/score/",
    "attacks/decision/",
    "attacks/registry.py",
    "certificates/",
    "model/exact.py",
    "metrics/distances.py",
    "record/box.py",  # the box's diameter in a norm
    "audits/checks/reported.py",  # lengths by formulas of its own
    "audits/checks/monotone_budget.py",  # anything inside the box, as a set
)

NAMED = re.compile(r"""["'](linf|l2|l1|l0)["']""")


def code(path):
    """A file without its comments and docstring examples."""
    lines = (line.partition("  #")[0] for line in path.read_text().splitlines())
    return [line for line in lines if not line.strip().startswith((">>>", "...", "'", "(", "#"))]


def test_no_other_file_asks_for_a_norm_by_its_name():
    found = [
        f"{path.relative_to(SRC)}: {line.strip()}"
        for path in sorted(SRC.rglob("*.py"))
        if not str(path.relative_to(SRC)).startswith(MADE_FOR_NORMS)
        for line in code(path)
        if NAMED.search(line)
    ]
    assert not found


def test_the_list_of_exceptions_holds_no_file_that_needs_none():
    for prefix in MADE_FOR_NORMS:
        files = sorted((SRC / prefix).rglob("*.py")) if prefix.endswith("/") else [SRC / prefix]
        assert any(NAMED.search("\n".join(code(path))) for path in files), prefix
