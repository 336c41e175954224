"""The one codec: records as JSON documents and back, by their annotations."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from trustbound.errors import RecordError

R = TypeVar("R")


def to_document(record: Any) -> Any:
    """A dataclass of plain values as what `json.dumps(..., allow_nan=False)` accepts.

    JSON has no word for them: NaN becomes None, an infinity "inf" or "-inf".

    >>> from trustbound.record.cost import Cost
    >>> to_document(Cost(forwards=2))["forwards"]
    2
    """
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: to_document(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, tuple | list):
        return [to_document(part) for part in record]
    if isinstance(record, Mapping):
        return {str(key): to_document(value) for key, value in record.items()}
    if isinstance(record, float) and not math.isfinite(record):
        return None if math.isnan(record) else "inf" if record > 0 else "-inf"
    return record


def from_document(kind: type[R], document: Any) -> R:
    """Read a record back; unknown fields are passed over, absent ones take their defaults.

    Raises      RecordError when the document lacks a field without a default, or holds what does not belong there.

    >>> from trustbound.record.cost import Cost
    >>> from_document(Cost, to_document(Cost(forwards=2)))
    Cost(forwards=2, backwards=0, queries=0, seconds=0.0, purposes={})
    """
    try:
        return typing.cast(R, _read(kind, document))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise RecordError(
            f"a stored {kind.__name__} holds what does not belong there ({error}): it is damaged. Give the command "
            "that wrote it again."
        ) from error


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _read(next(part for part in arguments if part is not type(None)), value)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_read(arguments[0], part) for part in value)
        return tuple(_read(part, item) for part, item in zip(arguments, value, strict=True))
    if origin is list:
        return [_read(arguments[0], part) for part in value]
    if origin in (dict, Mapping):
        return {key: _read(arguments[1], item) for key, item in value.items()}
    if kind is float and (value is None or isinstance(value, str)):
        return float("nan" if value is None else value)
    if dataclasses.is_dataclass(kind):
        name = typing.cast(type, kind).__name__
        hints = _hints(typing.cast(type, kind))
        missing = [
            field.name
            for field in dataclasses.fields(kind)
            if field.init
            and field.name not in value
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise RecordError(
                f"a stored {name} lacks {', '.join(missing)}: it is damaged. Give the command that wrote it again."
            )
        return kind(**{key: _read(hints[key], item) for key, item in value.items() if key in hints})  # type: ignore[operator]
    return value
