"""Models that a Python function makes: in a file, or in an installed package."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from trustbound.errors import InputError, TrustboundError


def from_file(path: Path, function: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Execute a Python file and call one of its functions; its folder can be imported from meanwhile."""
    name = f"trustbound_model_{path.stem}_{abs(hash(path.resolve()))}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise InputError(f"a factory lives in a .py file; got {str(path)!r}")
    module = importlib.util.module_from_spec(specification)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[name] = module  # so that the file's dataclasses and pickles find their own module
    try:
        specification.loader.exec_module(module)
        return _call(getattr(module, function, None), f"{path}:{function}", arguments)
    except TrustboundError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit at import would end the command, with 0 as if all were well
        sys.modules.pop(name, None)
        raise InputError(f"{path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)


def from_package(package: str, function: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Import a module and call one of its functions."""
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"the package {package!r} cannot be imported: {error}. Install it in this environment, or name a "
            "file: path/file.py:function."
        ) from error
    except TrustboundError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"importing {package!r} failed: {type(error).__name__}: {error}. Repair it first.") from error
    target: Any = module
    for part in function.split("."):
        target = getattr(target, part, None)
    return _call(target, f"{package}:{function}", arguments)


def _call(function: Any, spec: str, arguments: Mapping[str, Any]) -> nn.Module:
    if not callable(function):
        raise InputError(f"{spec} must name a function that returns a module; there is none of that name")
    try:
        made = function(**arguments)
    except TrustboundError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{spec} failed with the arguments {dict(arguments)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{spec} must return a torch.nn.Module; got {type(made).__name__}")
    return made
