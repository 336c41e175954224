"""Write what must agree with the code: the README's tables, the references of commands and of Python, the registries.

python docs/generate.py             write them
python docs/generate.py --check     exit 1 when they are stale
python docs/generate.py --picture RUN [RUN …] [--to NAME]   draw docs/bracket.svg, or NAME.svg, from finished audits
python docs/generate.py --screen RUN          photograph the first screen of a report: docs/report.png (needs chromium)
"""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import trustbound as tb
from trustbound.attacks.registry import ATTACKS
from trustbound.audits.checks.registry import CHECKS
from trustbound.certificates.registry import CERTIFIERS
from trustbound.cli.main import cli
from trustbound.cli.registry import COMMANDS
from trustbound.data.registry import DATA
from trustbound.hardening.registry import OBJECTIVES
from trustbound.model.files.registry import FILES
from trustbound.model.registry import ZOO
from trustbound.tasks.registry import TASKS
from trustbound.threat.sets.registry import SETS

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
REFERENCE = ROOT / "docs" / "cli.md"
FILE_KINDS = ROOT / "docs" / "files.md"
API = ROOT / "docs" / "api.md"
REGISTRIES = ROOT / "docs" / "registries.md"
TITLES = {
    "sets": "Threats",
    "tasks": "Tasks",
    "attacks": "Attacks",
    "certifiers": "Proofs",
    "checks": "Checks",
    "objectives": "Hardening",
    "models": "Models",
    "data": "Data",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def tables() -> dict[str, str]:
    """Every generated table of the README, by the name of its marker."""
    return {
        "attacks": table(
            ["attack", "sees", "sets", "what it does"],
            [[f"`{row.name}`", row.needs, row.served, row.line] for row in ATTACKS],
        ),
        "certifiers": table(
            ["certifier", "sets", "what it does"],
            [[f"`{row.name}`", ", ".join(row.sets), row.line] for row in CERTIFIERS],
        ),
        "sets": table(
            ["set", "size in", "what it allows"],
            [[f"`{row.example}`", row.unit, row.line] for row in SETS],
        ),
        "tasks": table(
            ["task", "outputs", "labels", "what it is"],
            [[f"`{row.example}`", row.returns, row.labels, row.line] for row in TASKS],
        ),
        "checks": table(
            ["check", "a failure is", "what it asks"],
            [[f"`{row.name}`", row.severity, row.line] for row in CHECKS],
        ),
        "objectives": table(
            ["objective", "lifts", "what it does"],
            [[f"`{row.name}`", row.lifts, row.line] for row in OBJECTIVES],
        ),
        "models": table(["model", "what it is"], [[f"`{row.name}`", row.line] for row in ZOO]),
        "data": table(["data", "what it is"], [[f"`{row.name}`", row.line] for row in DATA]),
    }


def file_kinds() -> dict[str, str]:
    """The tables of kinds of files."""
    loaded = [[f"`{row.name}`", row.line, row.advice.replace("{path}", "FILE")] for row in FILES if row.loads]
    others = [[f"`{row.name}`", row.line, row.advice.replace("{path}", "FILE")] for row in FILES if not row.loads]
    return {
        "loaded": table(["kind", "what it is", "where it is not loaded"], loaded),
        "others": table(["kind", "what it is", "what to do"], others),
    }


def filled(path: Path, bodies: dict[str, str]) -> str:
    """A page with its tables written anew between their markers."""
    text = path.read_text(encoding="utf-8")
    for name, body in bodies.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{path.name} lacks the markers <!-- {name} --> … <!-- /{name} -->")
        text = pattern.sub(lambda match, body=body: match[1] + body + "\n" + match[2], text)
    return text


def reference() -> str:
    """The command-line reference."""
    parts = ["# Command line", "", "Written by `make docs`; `trustbound COMMAND --help` says the same.", ""]
    context = click.Context(cli, info_name="trustbound", max_content_width=100, terminal_width=100)
    for row in COMMANDS:
        command = cli.get_command(context, row.name)
        assert command is not None
        inner = click.Context(command, info_name=row.name, parent=context, max_content_width=100, terminal_width=100)
        parts += [f"## {row.name}", "", "```", command.get_help(inner), "```", ""]
    return "\n".join(parts)


def api() -> str:
    """Every public name with its signature and docstring, as they stand in the code."""
    parts = ["# Python", "", "`import trustbound as tb`. Written by `make docs` from the docstrings.", ""]
    for name in sorted(tb.__all__, key=lambda name: (inspect.isclass(getattr(tb, name)), name.lower())):
        held = getattr(tb, name)
        if name.endswith("Error"):
            continue
        signature = re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(held)))
        parts += [f"## tb.{name}", "", "```python", f"{name}{signature}", "```", ""]
        parts += ["```text", inspect.getdoc(held) or "", "```", ""]
    errors = [name for name in tb.__all__ if name.endswith("Error")]
    parts += ["## Errors", ""]
    parts += [f"- `tb.{name}`: {(inspect.getdoc(getattr(tb, name)) or '').partition(chr(10))[0]}" for name in errors]
    return "\n".join([*parts, ""])


def registries() -> str:
    """The registries' tables, one after another."""
    parts = ["# Attacks, proofs, checks", "", "Written by `make docs`; `trustbound list` says the same.", ""]
    for name, body in tables().items():
        parts += [f"## {TITLES[name]}", "", body, ""]
    return "\n".join(parts)


def picture(runs: Sequence[str], name: str) -> None:
    """Draw the brackets of finished audits."""
    from trustbound.record.record_file import read_record
    from trustbound.report import bracket_picture

    brackets: list[Any] = [bracket for run in runs for bracket in read_record(run).brackets]
    names = [f"{Path(run).name}, {bracket.threat}" for run in runs for bracket in read_record(run).brackets]
    (ROOT / "docs" / f"{name}.svg").write_text(bracket_picture(brackets, names=names), encoding="utf-8")


def screen(run: str) -> None:
    """Photograph the first screen of a finished audit's report, 1,280 × 800, in as few colours as it needs."""
    from PIL import Image

    target, page = ROOT / "docs" / "report.png", (Path(run) / "report.html").resolve()
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,800"]
        shot = [f"--user-data-dir={profile}", f"--screenshot={target}", page.as_uri()]
        subprocess.run(["chromium", *flags, *shot], check=True, capture_output=True)
    picture = Image.open(target).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(target, optimize=True)


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--picture", nargs="+", metavar="RUN")
    parser.add_argument("--to", default="bracket", metavar="NAME")
    parser.add_argument("--screen", metavar="RUN")
    options = parser.parse_args()
    if options.picture:
        picture(options.picture, options.to)
        return
    if options.screen:
        screen(options.screen)
        return
    wanted = {
        README: filled(README, tables()),
        FILE_KINDS: filled(FILE_KINDS, file_kinds()),
        REFERENCE: reference(),
        API: api(),
        REGISTRIES: registries(),
    }
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if options.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run `make docs`")
        sys.exit(1 if stale else 0)
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")


if __name__ == "__main__":
    main()
