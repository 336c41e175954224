"""Models that a Python function makes, or that stand in a module: in a file, or in an installed package."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from trustbound.errors import InputError, TrustboundError
from trustbound.model.predictor import Predictor, from_estimator, predictor_of
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.task import Task

#: How modules are called that are made of a file: nobody else can import them.
MADE = "trustbound_model_"


def from_file(
    path: Path,
    function: str,
    arguments: Mapping[str, Any],
    shows: str | None = None,
    classes: int | None = None,
    task: Task = CLASSIFICATION,
) -> nn.Module:
    """Execute a Python file and call one of its functions; its folder can be imported from meanwhile.

    A function of one argument is not called: it is the model, a predictor that shows `shows`; so is a module or a
    fitted classifier of that name.
    """
    # The same in every process: objects of the file's classes are told apart by it.
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    name = f"{MADE}{path.stem}_{place}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise InputError(f"a factory lives in a .py file; got {str(path)!r}")
    module = importlib.util.module_from_spec(specification)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[name] = module  # so that the file's dataclasses and pickles find their own module
    try:
        specification.loader.exec_module(module)
        return _call(getattr(module, function, None), f"{path}:{function}", arguments, shows, classes, task)
    except TrustboundError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit at import would end the command, with 0 as if all were well
        sys.modules.pop(name, None)
        raise InputError(f"{path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)


def from_package(
    package: str,
    function: str,
    arguments: Mapping[str, Any],
    shows: str | None = None,
    classes: int | None = None,
    task: Task = CLASSIFICATION,
) -> nn.Module:
    """Import a module and call one of its functions, or take as it is what is a model already."""
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
    return _call(target, f"{package}:{function}", arguments, shows, classes, task)


def _call(
    function: Any, spec: str, arguments: Mapping[str, Any], shows: str | None, classes: int | None, task: Task
) -> nn.Module:
    if function is None:
        raise InputError(f"{spec} must name a function that returns a module, or a model; there is none of that name")
    if (standing := _standing(function, shows, classes, task)) is not None:
        if arguments:
            raise InputError(
                f"{spec} is a model already and takes no arguments; got {dict(arguments)}. Leave them out."
            )
        return standing
    if not callable(function):
        raise InputError(
            f"{spec} must name a function that returns a module, or a model: a torch.nn.Module, or a fitted classifier "
            f"with predict_proba or predict; it is a {type(function).__name__}"
        )
    if not arguments and _takes_arrays(function):
        return Predictor(function, shows=shows or "scores", classes=classes, task=task)
    try:
        made = function(**arguments)
    except TrustboundError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{spec} failed with the arguments {dict(arguments)}: {type(error).__name__}: {error}"
        ) from error
    if isinstance(made, nn.Module):
        return made
    if not task.plain and hasattr(made, "predict"):
        return predictor_of(made, None, None, None, task)
    if (found := from_estimator(made, shows, classes)) is None:
        raise InputError(
            f"{spec} must return a torch.nn.Module or a fitted classifier with predict_proba or predict; got "
            f"{type(made).__name__}. A function that takes arrays itself has one argument without a default."
        )
    return found


def _standing(target: Any, shows: str | None, classes: int | None, task: Task) -> nn.Module | None:
    """What is a model as it stands; None for what is to be called."""
    if isinstance(target, nn.Module):
        return target
    if not task.plain:
        known = hasattr(target, "predict") and not isinstance(target, type)
        return predictor_of(target, None, None, None, task) if known else None
    return None if inspect.isroutine(target) else from_estimator(target, shows, classes)


def _takes_arrays(function: Any) -> bool:
    """Whether a function asks for exactly one thing: the inputs."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [one for one in parameters if one.default is one.empty and one.kind in places]
    return len(needed) == 1 and not isinstance(function, type)
