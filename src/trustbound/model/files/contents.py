"""What an object in memory holds, as a digest that a copy of it has too, in this process or another."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from trustbound.model.files.digest import add_to

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), np.dtype)
#: What has a name in a module and is the same wherever that module is.
_NAMED = (types.BuiltinFunctionType, types.MethodDescriptorType, np.ufunc)


#: What a class says of itself that changes nothing in what it does.
_DUNDER = ("__doc__", "__module__", "__annotations__", "__firstlineno__", "__static_attributes__")


class _Unknown(Exception):
    """Nothing tells this object from another of its kind."""


def contents_digest(value: Any, *, code: bool = False) -> str | None:
    """SHA-256 of the values that an object holds; None where something in it has none: locks, connections, closures.

    It goes by value: a pickle names what it has met before, and so differs between an object and its copy.

    Parameters
        code    functions and classes count by what they do (their code, what they close over, and what they name in
                their own module); otherwise by their names, and those without one are unknown.

    >>> import copy, pickle
    >>> held = {"a": np.arange(3), "b": ["x", ("y", 1.5)]}
    >>> contents_digest(held) == contents_digest(pickle.loads(pickle.dumps(copy.deepcopy(held))))
    True
    >>> contents_digest({**held, "a": np.arange(4)}) == contents_digest(held), contents_digest(lambda: 1)
    (False, None)
    """
    try:
        return _Contents(code).digest(value).hex()
    except (_Unknown, RecursionError):
        return None


class _Contents:
    """One walk through an object."""

    def __init__(self, code: bool) -> None:
        self.code = code
        self.above: list[Any] = []  # what is being walked through, outermost first

    def digest(self, value: Any) -> bytes:
        """Of a value and all that it holds."""
        if isinstance(value, _PLAIN):
            return _hashed(type(value).__name__, repr(value).encode())
        met = next((place for place, one in enumerate(self.above) if one is value), None)
        if met is not None:
            return _hashed("again", str(met).encode())
        self.above.append(value)
        try:
            return _hashed(f"{type(value).__module__}.{type(value).__qualname__}", *self.parts(value))
        finally:
            self.above.pop()

    def parts(self, value: Any) -> Iterable[bytes]:
        """Digests of what it is made of."""
        if isinstance(value, np.ndarray | np.generic):
            return self.array(np.asarray(value))
        if isinstance(value, torch.Tensor):
            whole = hashlib.sha256()
            add_to(whole, value)
            return [whole.digest()]
        if type(value) in (list, tuple):
            return map(self.digest, value)
        if type(value) in (set, frozenset):
            return sorted(map(self.digest, value))
        if type(value) in (dict, types.MappingProxyType):
            return self.mapping(value)
        if isinstance(value, types.ModuleType):
            return [value.__name__.encode()]
        if isinstance(value, types.MethodType):
            return [self.digest(value.__self__), self.digest(value.__func__)]
        if isinstance(value, types.FunctionType):
            return self.function(value)
        if isinstance(value, types.CodeType):
            names = (value.co_names, value.co_varnames, value.co_freevars)
            constants = [self.digest(one) for one in value.co_consts if not isinstance(one, str)]
            words = [self.digest(one) for one in value.co_consts if isinstance(one, str) and value.co_name not in one]
            return [value.co_code, repr(names).encode(), *constants, *words]
        if isinstance(value, type):
            return self.type(value)
        if isinstance(value, _NAMED):
            return [f"{getattr(value, '__module__', '')}.{value.__name__}".encode()]
        return self.object(value)

    def mapping(self, value: Mapping[Any, Any]) -> list[bytes]:
        """In no order."""
        return sorted(self.digest(key) + self.digest(one) for key, one in value.items())

    def array(self, value: np.ndarray[Any, Any]) -> Iterable[bytes]:
        """Numbers as they are; what lies between the fields of a record is no part of it."""
        yield f"{value.shape}".encode()
        if value.dtype.names is not None:
            for name in value.dtype.names:
                yield _hashed(name, *self.array(value[name]))
        elif value.dtype.hasobject:
            yield from map(self.digest, value.ravel().tolist())
        else:
            yield value.dtype.newbyteorder("<").str.encode()
            yield np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"))).tobytes()

    def function(self, value: types.FunctionType) -> list[bytes]:
        """By its name, or by what it does."""
        if not self.code:
            if "<" in value.__qualname__:
                raise _Unknown
            return [f"{value.__module__}.{value.__qualname__}".encode()]
        own = [name for name in value.__code__.co_names if name in value.__globals__]
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        told = (value.__defaults__, value.__kwdefaults__, held)
        named = [self.mentioned(value.__globals__[name], value.__module__) for name in sorted(own)]
        return [self.digest(value.__code__), *map(self.digest, told), *named]

    def mentioned(self, value: Any, module: str) -> bytes:
        """What a function names: its own module's by what it is, others' by their names."""
        if isinstance(value, types.FunctionType | type) and value.__module__ != module:
            return f"{value.__module__}.{value.__qualname__}".encode()
        return self.digest(value)

    def type(self, value: type) -> list[bytes]:
        """By its name, and by its methods where code counts."""
        parts = [f"{value.__module__}.{value.__qualname__}".encode()]
        root = value.__module__.partition(".")[0]
        if self.code and root not in ("builtins", "torch", "numpy", "trustbound", "typing", "abc"):
            for kind in value.__mro__:
                if kind.__module__.partition(".")[0] == root:
                    parts += [self.method(name, one) for name, one in sorted(vars(kind).items())]
        return parts

    def method(self, name: str, value: Any) -> bytes:
        """A function of a class, whatever wraps it; plain values that all its objects share."""
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, property):
            value = (value.fget, value.fset)
        if isinstance(value, (types.FunctionType, tuple, list, dict, *_PLAIN)) and name not in _DUNDER:
            return _hashed(name, self.digest(value))
        return name.encode()

    def object(self, value: Any) -> Iterable[bytes]:
        """What it would be made of again."""
        if self.code:
            yield self.digest(type(value))
        if isinstance(value, functools.partial):
            yield from map(self.digest, (value.func, value.args, value.keywords))
            return
        if self.code and not hasattr(type(value), "__getstate__") and hasattr(value, "__dict__"):
            yield self.digest(vars(value))
            return
        try:
            made: Any = value.__reduce_ex__(4)
        except Exception as error:  # whatever holds a lock or an open connection
            raise _Unknown from error
        if isinstance(made, str):
            yield made.encode()
            return
        build: Callable[..., Any]
        build, arguments, *rest = made
        yield f"{build.__module__}.{build.__qualname__}".encode()
        yield self.digest(arguments)
        yield from (self.digest(one if n == 0 or one is None else list(one)) for n, one in enumerate(rest[:3]))


def _hashed(kind: str, *parts: bytes) -> bytes:
    """Of parts, each told from the next."""
    whole = hashlib.sha256(kind.encode())
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.digest()
