"""Tasks as text, and back: NAME or NAME:KEY=VALUE,KEY=VALUE, as in `regression:tolerance=50`."""

from __future__ import annotations

import re
from typing import Any, cast

from trustbound.errors import InputError
from trustbound.tasks.registry import TASKS
from trustbound.tasks.task import Task

#: Whole numbers of more digits are read as floating ones.
_DIGITS = 19
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)


def parse_task(text: str | Task | None, **params: Any) -> Task:
    """Read a task's text form, with further parameters beside it; a task passes through, None is classification.

    Raises      InputError for an unknown name, for parameters that the task does not take, or one said twice.

    >>> str(parse_task("regression:tolerance=50")), str(parse_task("regression", tolerance=0.5))
    ('regression:tolerance=50.0', 'regression:tolerance=0.5')
    >>> parse_task("regression:tolerence=1")
    Traceback (most recent call last):
    trustbound.errors.InputError: regression takes tolerance; got tolerence
    """
    if isinstance(text, Task):
        if params:
            raise InputError(f"a task that comes as an object has its own numbers; got {', '.join(params)} beside it")
        return text
    if text is not None and not isinstance(text, str):
        raise InputError(f"`task` must be a name such as {', '.join(TASKS.names)}, or a Task; got {text!r}")
    name, colon, rest = ("classification" if text is None else text).partition(":")
    name = name.strip()
    TASKS.find(name)
    given: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not _NUMBER.fullmatch(value):
            raise InputError(
                f"a task reads NAME or NAME:KEY=NUMBER,…, e.g. {TASKS.find(name).example}; got {part!r} in {text!r}"
            )
        if key in given or key in params:
            raise InputError(f"a task says {key} once; got it again in {text!r}. Leave one out.")
        given[key] = float(value) if re.search("[.eE]", value) or len(value) > _DIGITS else int(value)
    return cast(Task, TASKS.build(name, **given, **params))
