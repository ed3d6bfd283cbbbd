"""Digests of values and of functions, which are the same in every process."""

from __future__ import annotations

import functools
import re
import struct
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any, Final, cast

__all__ = ["IndescribableError", "digest_of"]

_DEEPEST: Final = 20
"""Levels of values within values; deeper ones are taken for a cycle."""
_PLAIN: Final = (str, bytes, int, float, complex, bool, type(None), type(...))


_CONSTANTS: Final = frozenset((*_PLAIN[:-2], tuple, list, dict, set, frozenset, re.Pattern))
"""Types of module-level values that are part of the functions that name them."""


class IndescribableError(TypeError):
    """A value has no digest: nothing says whether it is the same in another process."""


def digest_of(value: object) -> str:
    """Return a digest of `value`, in hexadecimal.

    Values have equal digests if they are equal plain values, collections of such, records (dataclasses,
    pydantic models, named tuples, objects with a `__dict__`) of the same class with such fields, or functions
    with the same bytecode, defaults and closure. The functions of its own module, the runnables and the
    constants that a function names are part of it; other modules, methods of a base class and attributes
    found at run time are not. Bytecode differs between versions of Python.

    Raises:
        IndescribableError: for any other value, such as an open connection.
    """
    hashing = blake2b(digest_size=12)
    for token in _Walk().tokens(value, 0):
        data = token if isinstance(token, bytes) else token.encode("utf-8", "surrogatepass")
        hashing.update(len(data).to_bytes(8))
        hashing.update(data)
    return hashing.hexdigest()


class _Walk:
    """Flatten a value into tokens; a function that is met again is not entered."""

    def __init__(self) -> None:
        self._entered: set[int] = set()

    def tokens(self, value: Any, depth: int) -> Iterator[str | bytes]:
        """Yield tokens that are equal for equal values alone."""
        if depth > _DEEPEST:
            raise IndescribableError("a value that holds itself, or is nested too deeply")
        kind = type(value)
        if kind in _PLAIN:
            yield kind.__name__
            yield repr(value)
        elif isinstance(value, Mapping):
            yield from self._mapping(value, depth)
        elif isinstance(value, set | frozenset):
            yield "set"
            yield from sorted(digest_of(each) for each in value)
        elif isinstance(value, list | tuple):
            yield f"{_name(kind)} of {len(value)}"
            for each in value:
                yield from self.tokens(each, depth + 1)
        elif isinstance(value, types.ModuleType):
            yield value.__name__
        elif isinstance(value, type):
            yield from self._class(value, depth)
        elif isinstance(value, Enum):
            yield _name(kind)
            yield value.name
        else:
            yield from self._callable_or_record(value, depth)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Iterator[str | bytes]:
        # In order: the order of a request's members is that of its bytes.
        yield f"mapping of {len(value)}"
        for key, each in value.items():
            yield from self.tokens(key, depth + 1)
            yield from self.tokens(each, depth + 1)

    def _class(self, value: type, depth: int) -> Iterator[str | bytes]:
        yield _name(value)
        schema = getattr(value, "model_json_schema", None)
        if schema is not None:
            yield from self.tokens(schema(), depth + 1)

    def _callable_or_record(self, value: Any, depth: int) -> Iterator[str | bytes]:
        from batchrt.runnables.base import Runnable

        if isinstance(value, Runnable):
            yield from self._runnable(value, depth)
        elif isinstance(value, functools.partial):
            yield "partial"
            yield from self.tokens((value.func, value.args, value.keywords), depth + 1)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value, depth)
        elif isinstance(value, types.MethodType):
            yield from self.tokens((value.__func__, value.__self__), depth + 1)
        elif isinstance(value, types.CodeType):
            yield from self._code(value, depth)
        elif isinstance(value, types.BuiltinFunctionType) and isinstance(
            value.__self__, types.ModuleType | None
        ):
            yield f"{value.__module__}.{value.__qualname__}"
        else:
            yield from self._record(value, depth)

    def _runnable(self, value: Any, depth: int) -> Iterator[str | bytes]:
        if id(value) in self._entered:
            return
        self._entered.add(id(value))
        for each in value.describe().parts:
            if each.problem:
                raise IndescribableError(each.problem)
            yield from self.tokens(tuple(each), depth + 1)

    def _function(self, function: types.FunctionType, depth: int) -> Iterator[str | bytes]:
        if id(function) in self._entered:
            yield function.__qualname__
            return
        self._entered.add(id(function))
        wrapped = getattr(function, "__wrapped__", None)
        yield "function"
        yield from self.tokens(function.__code__, depth + 1)
        yield from self.tokens((function.__defaults__, function.__kwdefaults__, wrapped), depth + 1)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            yield name
            yield from self._closed_over(function, name, cell, depth)
        for name in sorted(_names(function.__code__)):
            yield from self._global(function, name, depth)

    def _closed_over(
        self, function: types.FunctionType, name: str, cell: types.CellType, depth: int
    ) -> Iterator[str | bytes]:
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            return
        try:
            yield from self.tokens(content, depth + 1)
        except IndescribableError as error:
            raise IndescribableError(f"{function.__qualname__} uses {name}, {error}") from None

    def _global(self, function: types.FunctionType, name: str, depth: int) -> Iterator[str | bytes]:
        """Yield tokens of a global name if it is a function of the same module, a runnable or a constant."""
        from batchrt.runnables.base import Runnable

        value = function.__globals__.get(name)
        same_module = getattr(value, "__module__", None) == function.__module__
        if isinstance(value, Runnable) or (isinstance(value, types.FunctionType) and same_module):
            yield name
            yield from self.tokens(value, depth + 1)
        elif type(value) in _CONSTANTS:
            with suppress(IndescribableError):  # a list of open connections is no constant
                digest = digest_of(value)
                yield name
                yield digest

    def _code(self, code: types.CodeType, depth: int) -> Iterator[str | bytes]:
        yield code.co_code
        yield from self.tokens((code.co_names, code.co_varnames, code.co_freevars), depth + 1)
        yield str((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags))
        yield from self.tokens(code.co_consts, depth + 1)

    def _record(self, value: Any, depth: int) -> Iterator[str | bytes]:
        kind = type(value)
        state = _state_of(value)
        if state is None:
            raise IndescribableError(f"a {_name(kind)}, of which it cannot be told whether it has changed")
        yield _name(kind)
        call: Callable[..., Any] | None = getattr(kind, "__call__", None)  # noqa: B004  the method itself
        if isinstance(call, types.FunctionType):
            yield from self._function(call, depth)
        yield from self._mapping(state, depth)


def _state_of(value: Any) -> Mapping[str, Any] | None:
    """Return the fields of a record; `None` if it has none that can be seen."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    state = getattr(value, "__dict__", None)
    if type(state) is not dict or not _is_plain(type(value)):
        text = repr(value)
        return None if " at 0x" in text or text == object.__repr__(value) else {"repr": text}
    if any(hasattr(base, "__slots__") and base.__slots__ for base in type(value).__mro__):
        return None
    return cast("Mapping[str, Any]", state)


_PLAIN_SIZE: Final = object.__basicsize__ + 2 * struct.calcsize("P")
"""Bytes of an instance that has no more than a `__dict__` and a list of weak references."""


def _is_plain(kind: type) -> bool:
    """Whether instances hold nothing that their `__dict__` does not show, as a class written in C may."""
    return kind.__basicsize__ <= _PLAIN_SIZE and not kind.__itemsize__


def _names(code: types.CodeType) -> set[str]:
    """Return the names that `code` and the functions within it look up."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
