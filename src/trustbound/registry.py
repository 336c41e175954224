"""One table of what has a name: its rows, what a name means, and the class behind it, imported when it is used.

Every `registry.py` of a room holds rows of its own kind as data, in a `Registry`. Torch-free: a target is text until
somebody loads it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import Any, Generic, Protocol, TypeVar

from trustbound.errors import InputError


class Row(Protocol):
    """What every row has, whatever else its kind adds.

    name        kebab-case of the usual abbreviation.
    target      "module:attribute" of the class or function.
    line        what it does, in one line.
    """

    @property
    def name(self) -> str:
        """Under which it is found."""

    @property
    def target(self) -> str:
        """Where it is."""

    @property
    def line(self) -> str:
        """What it does."""


R = TypeVar("R", bound=Row)


class Registry(tuple[R, ...], Generic[R]):
    """The rows of one kind, in the order in which they are listed.

    Parameters
        kind    what a row is, with its article, for messages: "an attack".

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class NumberRow:
    ...     name: str
    ...     target: str
    ...     line: str
    >>> numbers = Registry(
    ...     "a number",
    ...     NumberRow("ratio", "fractions:Fraction", "a ratio of whole numbers"),
    ...     NumberRow("decimal", "decimal:Decimal", "digits and a point"),
    ... )
    >>> numbers.names
    ('ratio', 'decimal')
    >>> numbers.build("ratio", numerator=2, denominator=4)
    Fraction(1, 2)
    >>> numbers.find("ration")
    Traceback (most recent call last):
    trustbound.errors.InputError: a number must be one of ratio, decimal; got 'ration'. Did you mean 'ratio'?
    """

    kind: str

    def __new__(cls, kind: str, *rows: R) -> Registry[R]:
        """A tuple of the rows that knows what they are."""
        made = super().__new__(cls, rows)
        made.kind = kind
        return made

    @property
    def names(self) -> tuple[str, ...]:
        """Every name."""
        return tuple(row.name for row in self)

    def find(self, name: str) -> R:
        """The row of a name.

        Raises      InputError that lists the names there are.
        """
        for row in self:
            if row.name == name:
                return row
        raise self.unknown(name)

    def row_of(self, made: object) -> R | None:
        """The row whose class made an object; None for what comes from elsewhere."""
        target = f"{type(made).__module__}:{type(made).__qualname__}"
        return next((row for row in self if row.target == target), None)

    def load(self, name: str) -> Any:
        """The class or function of a name, imported."""
        module, _, attribute = self.find(name).target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def build(self, name: str, /, **params: Any) -> Any:
        """What a name makes with parameters.

        Raises      InputError for an unknown name, for parameters that it does not take and for values that its
                    constructor cannot compare.
        """
        target = self.load(name)
        known = inspect.signature(target).parameters
        if unknown := sorted(set(params) - set(known)):
            raise InputError(f"{name} takes {', '.join(known) or 'no parameters'}; got {', '.join(unknown)}")
        try:
            return target(**params)
        except TypeError as error:  # a word where a number is compared
            raise InputError(f"{name} takes values of the kinds that its documentation says; {error}") from error

    def unknown(self, name: object) -> InputError:
        """The error for a name that is not here."""
        said = self.suggestion(name) or " Choose one of these names."
        return InputError(f"{self.kind} must be one of {', '.join(self.names)}; got {name!r}.{said}")

    def suggestion(self, name: object) -> str:
        """The hint "Did you mean …?" with the nearest name; empty where none is near."""
        near = difflib.get_close_matches(str(name).lower(), self.names, n=1)
        return f" Did you mean {near[0]!r}?" if near else ""
