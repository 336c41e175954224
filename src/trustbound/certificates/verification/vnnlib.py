"""Read VNN-LIB files: which inputs, and which outputs none of them may have, as the VNN-COMP contests write them."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import torch

from trustbound.certificates.verification.properties import Property, Query, Unsafe
from trustbound.errors import InputError
from trustbound.record.disk.unpacking import DAMAGED, unpacked

#: More combinations of alternatives are not read.
MOST = 1 << 16

_TOKEN = re.compile(r";[^\n]*|[()]|[^\s();]+")
_NAME = re.compile(r"([XY])_(0|[1-9]\d{0,8})")
_SILENT = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"}


@dataclass(frozen=True)
class Word:
    """A word of the file, and its line."""

    text: str
    line: int


@dataclass(frozen=True)
class Listed:
    """What stands between two parentheses, and the line of the first."""

    items: tuple[Expression, ...]
    line: int

    @property
    def head(self) -> str:
        """Its first word, empty where there is none."""
        return self.items[0].text if self.items and isinstance(self.items[0], Word) else ""


Expression: TypeAlias = Word | Listed
#: Coefficients by (letter, number); those of a constant by ("", 0).
Terms: TypeAlias = dict[tuple[str, int], Fraction]
#: Sizes of the numbers that are read.
_LEAST, _MOST = Fraction(1, 10**300), Fraction(10**300)


@dataclass(frozen=True)
class Atom:
    """Terms ≤ 0."""

    terms: tuple[tuple[tuple[str, int], Fraction], ...]
    line: int


Clauses: TypeAlias = list[tuple[Atom, ...]]


def read_vnnlib(path: str | Path) -> Property:
    """Read a file, gzipped or not.

    Raises      InputError naming the file and the line: what is no VNN-LIB, strict or mixed inequalities, inputs
                without both limits.
    """
    path = Path(path).expanduser()
    try:
        with unpacked(path) as stream:
            text = stream.read().decode()
    except InputError:
        raise
    except (*DAMAGED, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"the property {str(path)!r} cannot be read: {reason}") from error
    return parse(text, str(path))


def parse(text: str, name: str = "the property") -> Property:
    """Read a text; `name` stands for it in errors.

    >>> unit = parse('''
    ... (declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
    ... (assert (>= X_0 -1)) (assert (<= X_0 0.5))   ; the inputs
    ... (assert (or (<= Y_0 Y_1) (>= Y_0 3)))        ; unsafe outputs''')
    >>> unit.queries[0].high, [one.rows.tolist() for one in unit.queries[0].unsafe]
    (tensor([0.5000], dtype=torch.float64), [[[1.0, -1.0]], [[-1.0, 0.0]]])
    >>> parse("(assert\\n (< X_0 1))")
    Traceback (most recent call last):
    trustbound.errors.InputError: the property, line 2: ...
    """
    try:
        return _Reader(name).read(text)
    except RecursionError:
        raise InputError(f"{name} nests its parentheses too deep to be read") from None


@dataclass
class _Reader:
    """What was read so far: declared names with their lines, and what each assertion allows."""

    name: str
    declared: dict[str, dict[int, int]] = field(default_factory=lambda: {"X": {}, "Y": {}})
    always: list[Atom] = field(default_factory=list)
    choices: list[Clauses] = field(default_factory=list)

    def read(self, text: str) -> Property:
        for command in self._expressions(text):
            if not isinstance(command, Listed) or not command.head:
                raise self._error(command.line, f"a command in parentheses is required; got {_shown(command)}")
            if command.head in ("declare-const", "declare-fun"):
                self._declare(command)
            elif command.head == "assert":
                self._assert(command)
            elif command.head not in _SILENT:
                other = " This is VNN-LIB 2; write the property in the first form." if "network" in text else ""
                raise self._error(
                    command.line, f"declare-const and assert are read; got {command.head!r}.{other}".rstrip(".") + "."
                )
        counts = [self._count(letter) for letter in "XY"]
        return Property(inputs=counts[0], outputs=counts[1], queries=tuple(self._queries(*counts)))

    def _error(self, line: int, reason: str) -> InputError:
        return InputError(f"{self.name}, line {line}: {reason}")

    def _expressions(self, text: str) -> Iterator[Expression]:
        """Nested lists of words, each with its line."""
        open_: list[tuple[list[Expression], int]] = []
        line, seen = 1, 0
        for found in _TOKEN.finditer(text):
            line += text.count("\n", seen, found.start())
            seen, word = found.start(), found[0]
            if word.startswith(";"):
                continue
            if word == "(":
                open_.append(([], line))
                continue
            if word == ")":
                if not open_:
                    raise self._error(line, "a parenthesis is closed that was not opened")
                items, first = open_.pop()
                done: Expression = Listed(tuple(items), first)
            else:
                done = Word(word, line)
            if open_:
                open_[-1][0].append(done)
            else:
                yield done
        if open_:
            raise self._error(open_[-1][1], "a parenthesis is opened that is not closed")

    def _declare(self, command: Listed) -> None:
        """Note a name."""
        words = [item.text if isinstance(item, Word) else "" for item in command.items[1:]]
        plain = words[:1] + [word for word in words[1:] if word]
        found = _NAME.fullmatch(plain[0]) if plain else None
        if found is None or plain[1:] != ["Real"]:
            raise self._error(command.line, f"X_i or Y_i of Real is required; got {_shown(command)}")
        known = self.declared[found[1]]
        if int(found[2]) in known:
            raise self._error(command.line, f"{found[0]} was declared in line {known[int(found[2])]} already")
        known[int(found[2])] = command.line

    def _count(self, letter: str) -> int:
        """How many names of a letter there are, without a gap."""
        known = self.declared[letter]
        if not known:
            raise InputError(f"{self.name} declares no {letter}_0: a property speaks of inputs X_i and outputs Y_i")
        missing = next(place for place in itertools.count() if place not in known)
        if missing != len(known):
            raise self._error(known[max(known)], f"{letter}_{max(known)} is declared, {letter}_{missing} is not")
        return len(known)

    def _assert(self, command: Listed) -> None:
        """Note what holds always, and where there is a choice."""
        if len(command.items) != 2:
            raise self._error(command.line, f"assert takes one expression; got {len(command.items) - 1}")
        clauses = self._clauses(command.items[1])
        if len(clauses) == 1:
            self.always += clauses[0]
        else:
            self.choices.append(clauses)

    def _clauses(self, given: Expression) -> Clauses:
        """Alternatives, each of inequalities that hold together."""
        if not isinstance(given, Listed) or not given.head:
            raise self._error(given.line, f"an inequality, and, or is required; got {_shown(given)}")
        rest = given.items[1:]
        if given.head == "or":
            return [clause for item in rest for clause in self._clauses(item)]
        if given.head == "and":
            return self._product([self._clauses(item) for item in rest], given.line)
        if given.head in ("<=", ">=", "="):
            if len(rest) != 2:
                raise self._error(given.line, f"{given.head} takes two sides; got {len(rest)}")
            left, right = (self._terms(item) for item in rest)
            sides = {"<=": [(left, right)], ">=": [(right, left)], "=": [(left, right), (right, left)]}[given.head]
            return [tuple(self._atom(less, more, given.line) for less, more in sides)]
        strict = " Strict inequalities are not part of VNN-LIB: write <= or >=." if given.head in "<>" else ""
        raise self._error(given.line, f"and, or, <=, >=, = are read; got {given.head!r}.{strict}")

    def _product(self, parts: list[Clauses], line: int) -> Clauses:
        """Every combination of one alternative of each part."""
        count = 1
        for part in parts:
            count *= len(part)
        if count > MOST:
            raise self._error(line, f"at most {MOST:,} combinations of alternatives are read; there are {count:,}")
        return [tuple(itertools.chain.from_iterable(chosen)) for chosen in itertools.product(*parts)]

    def _atom(self, less: Terms, more: Terms, line: int) -> Atom:
        found = dict(less)
        for name, factor in more.items():
            found[name] = found.get(name, Fraction(0)) - factor
        kept = {name: factor for name, factor in found.items() if factor or not name[0]}
        letters = {letter for letter, _ in kept if letter}
        if len(letters) > 1:
            raise self._error(line, "an inequality of inputs and outputs together is not read; keep them apart")
        if letters == {"X"} and sum(name[0] == "X" for name in kept) > 1:
            raise self._error(line, "an inequality of several inputs is not read; give each input its limits")
        for factor in kept.values():
            self._fits(factor, line)
        return Atom(tuple(sorted(kept.items())), line)

    def _fits(self, number: Fraction, line: int) -> None:
        """Refuse what float64 holds as 0, coarsely, or not at all: it would be another property."""
        if number and not _LEAST <= abs(number) <= _MOST:
            raise self._error(line, "numbers between 1e-300 and 1e300 are read; scale the inequality")

    def _terms(self, given: Expression) -> Terms:
        """A linear expression."""
        if isinstance(given, Word):
            return self._word(given)
        rest = [self._terms(item) for item in given.items[1:]]
        if given.head == "+" and rest:
            return _summed([(Fraction(1), part) for part in rest])
        if given.head == "-" and rest:
            first = Fraction(1 if len(rest) > 1 else -1)
            return _summed([(first if place == 0 else Fraction(-1), part) for place, part in enumerate(rest)])
        if given.head == "*" and len(rest) == 2:
            for constant, other in (rest, rest[::-1]):
                if set(constant) <= {("", 0)}:
                    return _summed([(constant.get(("", 0), Fraction(0)), other)])
        if given.head == "/" and len(rest) == 2 and set(rest[1]) == {("", 0)} and rest[1]["", 0]:
            return _summed([(1 / rest[1]["", 0], rest[0])])
        raise self._error(given.line, f"a linear expression of +, -, * by a number is required; got {_shown(given)}")

    def _word(self, given: Word) -> Terms:
        found = _NAME.fullmatch(given.text)
        if found is not None:
            if int(found[2]) not in self.declared[found[1]]:
                raise self._error(given.line, f"{given.text} is not declared")
            return {(found[1], int(found[2])): Fraction(1)}
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", given.text) is None:
            raise self._error(given.line, f"a number, X_i or Y_i is required; got {given.text!r}")
        return {("", 0): Fraction(given.text)}

    def _queries(self, inputs: int, outputs: int) -> Iterator[Query]:
        """Boxes, each with all the unsafe sets that are asked of it; empty ones are left out."""
        if not any(letter == "Y" for atom in self._atoms() for (letter, _), _ in atom.terms):
            raise InputError(f"{self.name} asserts nothing of the outputs: say which are unsafe, (assert (<= Y_0 Y_1))")
        last = max((clauses[0][0].line for clauses in self.choices if clauses and clauses[0]), default=1)
        boxes: dict[tuple[tuple[float, ...], tuple[float, ...]], list[Unsafe]] = defaultdict(list)
        base = self._limits(self.always, {})
        for clause in self._product(self.choices, last):
            limits = self._limits(clause, base)
            if limits is None:
                continue
            low, high = (tuple(self._side(limits, place, sign) for place in range(inputs)) for sign in (-1, 1))
            if any(limits[place, -1] > limits[place, 1] for place in range(inputs)):
                continue
            rows = [atom for atom in (*self.always, *clause) if any(letter == "Y" for (letter, _), _ in atom.terms)]
            boxes[low, high].append(_unsafe(rows, outputs))
        for (low, high), unsafe in boxes.items():
            sides = (torch.tensor(side, dtype=torch.float64) for side in (low, high))
            yield Query(low=next(sides), high=next(sides), unsafe=tuple(unsafe))

    def _atoms(self) -> Iterator[Atom]:
        yield from self.always
        for clauses in self.choices:
            for clause in clauses:
                yield from clause

    def _limits(
        self, atoms: list[Atom] | tuple[Atom, ...], base: dict[tuple[int, int], Fraction] | None
    ) -> dict[tuple[int, int], Fraction] | None:
        """Limits of inputs by (number, −1 or 1); None where something is asserted that is never so."""
        if base is None:
            return None
        found = dict(base)
        for atom in atoms:
            terms = dict(atom.terms)
            constant = terms.pop(("", 0), Fraction(0))
            if not terms:
                if constant > 0:
                    return None
                continue
            ((letter, place), factor), *_ = terms.items()
            if letter == "X":
                side, limit = (1 if factor > 0 else -1), -constant / factor
                self._fits(limit, atom.line)
                known = found.get((place, side))
                found[place, side] = limit if known is None else min(known, limit) if side > 0 else max(known, limit)
        return found

    def _side(self, limits: dict[tuple[int, int], Fraction], place: int, sign: int) -> float:
        """A limit of an input, which must be there."""
        if (place, sign) not in limits:
            side, other = ("lower", ">=") if sign < 0 else ("upper", "<=")
            raise self._error(
                self.declared["X"][place],
                f"X_{place} has no {side} limit: every input needs two finite ones, (assert ({other} X_{place} …))",
            )
        return float(limits[place, sign])


def _summed(parts: list[tuple[Fraction, Terms]]) -> Terms:
    found: Terms = {}
    for factor, terms in parts:
        for name, own in terms.items():
            found[name] = found.get(name, Fraction(0)) + factor * own
    return found


def _unsafe(atoms: list[Atom], outputs: int) -> Unsafe:
    """The set of outputs that satisfies inequalities: Σ c Y + d ≤ 0."""
    rows = torch.zeros(len(atoms), outputs, dtype=torch.float64)
    limits = torch.zeros(len(atoms), dtype=torch.float64)
    for at, atom in enumerate(atoms):
        for (letter, place), factor in atom.terms:
            if letter:
                rows[at, place] = float(factor)
            else:
                limits[at] = -float(factor)
    return Unsafe(rows=rows, limits=limits)


def _shown(given: Expression) -> str:
    """An expression as it was written, cut short."""
    text = given.text if isinstance(given, Word) else f"({' '.join(_shown(item) for item in given.items)})"
    return text if len(text) <= 60 else text[:57] + "…"
