"""Record what a forward asks torch for, so that its traced run can be compared with the run that counts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from trustbound.errors import UnsupportedError

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
#: Stands for a number that belongs to the trace alone, such as a size of the batch.
_SYMBOL = "a symbol"


@dataclass(frozen=True)
class Call:
    """One call into torch: what was called, the plain numbers it was given, whether it raised, and from where."""

    name: str
    numbers: tuple[str, ...]
    raised: bool
    where: str

    def is_like(self, other: Call, *, sizes: bool) -> bool:
        """Whether both ask the same; whole numbers may differ unless `sizes`, and symbols stand for any number."""
        if (self.name, self.raised, len(self.numbers)) != (other.name, other.raised, len(other.numbers)):
            return False
        return all(
            one == two or _SYMBOL in (one, two) or (not sizes and _whole(one) and _whole(two))
            for one, two in zip(self.numbers, other.numbers, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.name}{', which raises,' if self.raised else ''} at {self.where}"


class Recorder(TorchFunctionMode):
    """Note the calls into torch that are made while it is active, in order.

    Only calls from outside torch and this library count: what torch does among itself is not the forward's choice.
    Layers of torch that are called by none but each other leave nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call, and note how it went."""
        kwargs = kwargs or {}
        where = _caller()
        if not where:
            return func(*args, **kwargs)
        name = str(getattr(func, "__name__", func))
        owner = getattr(getattr(func, "__self__", None), "__name__", "")
        numbers = tuple(_plain((args, kwargs)))
        raised = True
        try:
            found = func(*args, **kwargs)
            raised = False
            return found
        finally:
            self.calls.append(Call(f"{owner}.{name}" if name == "__get__" else name, numbers, raised, where))


@contextmanager
def as_if_it_ran() -> Iterator[None]:
    """Answer `torch.compiler.is_compiling` and `is_exporting`, under all their names, as outside of a trace."""
    compiler = torch.compiler
    before = compiler._is_compiling_flag, compiler._is_exporting_flag
    compiler._is_compiling_flag = compiler._is_exporting_flag = False
    try:
        yield
    finally:
        compiler._is_compiling_flag, compiler._is_exporting_flag = before


def check_same(traced: Sequence[Call], ran: Sequence[Call], rows: int, *, sizes: bool = True) -> None:
    """Refuse a forward that asks torch for one thing when it is traced and for another when it runs on `rows` inputs.

    Raises      UnsupportedError naming the first call that differs.
    """
    for one, two in zip_longest(traced, ran):
        if one is None or two is None or not one.is_like(two, sizes=sizes):
            first, second = ("nothing more" if call is None else str(call) for call in (one, two))
            raise UnsupportedError(
                f"no proof: the forward takes another way when torch.export traces it ({first}) than when it runs on "
                f"a batch of {rows} ({second}). Let it compute the same for every batch, whether it is traced or not, "
                "and catch no errors of torch."
            )


def _caller() -> str:
    """Name the line outside torch that a call comes from; nothing where that is this library."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_TORCH):
        frame = frame.f_back
    name = frame.f_code.co_filename
    return "" if name.startswith(_OURS) else f"{os.path.basename(name)}:{frame.f_lineno} ({frame.f_code.co_name})"


def _plain(value: Any) -> Iterator[str]:
    """Yield the numbers and words in arguments, however nested."""
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        yield _SYMBOL
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _plain(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _plain(item)
    elif isinstance(value, slice):
        yield from _plain((value.start, value.stop, value.step))
    elif value is None or isinstance(value, bool | int | float | complex | str | torch.dtype):
        yield repr(value)
    else:
        yield "Tensor" if isinstance(value, torch.Tensor) else type(value).__name__


def _whole(text: str) -> bool:
    return text.removeprefix("-").isdigit()
