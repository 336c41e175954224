"""What may be imported by whom: no torch behind `--help`, every public name there, nothing forbidden anywhere."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import trustbound as tb

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "trustbound"

_DETECTOR = """
import sys, importlib.abc
class Detector(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "lightning_fabric", "matplotlib", "ray", "sklearn", "scipy", "onnx"}:
            print("HEAVY", name)
            sys.stdout.flush()
            import os
            os._exit(9)
sys.meta_path.insert(0, Detector())
"""

_COMMANDS = """
def told(*arguments):
    from trustbound.cli.main import cli
    try:
        cli.main(list(arguments), prog_name="trustbound", standalone_mode=True)
    except SystemExit as stop:
        assert not stop.code, (arguments, stop.code)
"""


def without_torch(code):
    """Run code in a fresh interpreter that dies at the first heavy import."""
    done = subprocess.run(
        [sys.executable, "-c", _DETECTOR + _COMMANDS + code], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def test_the_detector_can_fail():
    assert without_torch("import torch")[0] == 9
    assert without_torch("import trustbound; trustbound.LabelledSet")[0] == 9
    code, out, err = without_torch("print('alive')")
    assert (code, out) == (0, "alive\n"), err


def test_importing_and_every_help_needs_no_torch():
    code, out, err = without_torch(
        """
import trustbound
dir(trustbound), trustbound.__version__, trustbound.InputError, trustbound.Box, trustbound.AuditRecord
told("--help")
told("--version")
from trustbound.cli.registry import COMMANDS
for row in COMMANDS:
    told(row.name, "--help")
for kind in ("attacks", "certifiers", "checks", "data", "models", "objectives"):
    told("list", kind)
    told("list", kind, "--json")
"""
    )
    assert code == 0, out[-500:] + err
    assert "audit" in out


def test_a_finished_run_is_read_judged_and_drawn_without_torch(tmp_path):
    code, out, err = without_torch(
        "import sys; sys.meta_path[0].__class__.find_spec = lambda self, name, path=None, target=None: "
        "print('HEAVY') if name.split('.')[0] == 'torch' else None\n"
        "import trustbound.record.record_file, trustbound.record.store, trustbound.report\n"
        "from trustbound.audits.gate import missed\n"
        "from trustbound.audits.compare import compare"
    )
    assert code == 0, err
    assert "HEAVY" not in out


def modules():
    """Every module of the package, imported."""
    return [
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(tb.__path__, "trustbound.")
        if not info.name.endswith("__main__")
    ]


def test_public_names_are_what_can_be_imported():
    for module in [tb, *modules()]:
        for name in getattr(module, "__all__", ()):
            assert getattr(module, name) is not None, f"{module.__name__}.{name}"
        if hasattr(module, "__all__"):
            assert list(module.__all__) == sorted(
                module.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)
            )
    assert {name for name in dir(tb) if not name.startswith("_")} == set(tb.__all__)
    assert set(tb._HOMES) <= set(tb.__all__)
    stated = {name for name in tb.__all__ if name not in tb._HOMES}
    assert all(name in vars(tb) for name in stated)


def test_no_module_bears_the_name_of_what_its_package_exports():
    """Else importing the module would replace the function."""
    clashes = []
    for module in [tb, *modules()]:
        if not hasattr(module, "__path__"):
            continue
        inside = {info.name for info in pkgutil.iter_modules(module.__path__)}
        clashes += [f"{module.__name__}.{name}" for name in inside & set(getattr(module, "__all__", ()))]
    assert clashes == []


def test_public_functions_stay_callable_whatever_was_imported():
    modules()
    for name in ("attack", "audit", "certify", "load_data", "load_model", "save_model", "train", "wrap"):
        assert callable(getattr(tb, name)), name
        assert type(getattr(tb, name)).__name__ == "function", name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        tb.nonsense  # noqa: B018


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    heads = re.findall(r"^## \[?([0-9][^\]\s]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == project["version"] == tb.__version__


def imports(path):
    """(module, line) of each import statement of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno


ALLOWED = {
    "trustbound", "torch", "numpy", "safetensors", "click", "rich", "jinja2", "markupsafe", "matplotlib", "sklearn",
    "scipy", "PIL", "lightning_fabric", "ray", "onnx", "onnxruntime",
    "pandas", "pyarrow", "joblib", "veritas",
}  # fmt: skip


def test_source_imports_only_what_the_project_depends_on():
    strangers = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted(SOURCE.rglob("*.py"))
        for name, line in imports(path)
        if name.split(".")[0] not in ALLOWED | set(sys.stdlib_module_names)
    ]
    assert strangers == []


def test_no_room_is_a_drawer_for_everything():
    names = {path.stem for path in SOURCE.rglob("*.py")} | {path.name for path in SOURCE.rglob("*") if path.is_dir()}
    assert not names & {"utils", "util", "common", "helpers", "helper", "misc", "tools"}
