"""Sync callbacks: async functions in their place are refused, whose coroutines would be taken for a yes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

__all__ = ["check_sync", "checked_sync", "is_async"]

_DEEPEST: Final = 20
"""Parts in one another; tenacity's `a | b | c` nests once for each."""


def is_async(function: object) -> bool:
    """Whether calling `function` gives something to be awaited, as far as that can be seen from outside."""
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, type):
        return False
    call = getattr(function, "__call__", None)  # noqa: B004  the method itself, to look at
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in (function, call)
    )


def check_sync(name: str, part: object) -> None:
    """Raise TypeError if `part`, or a part that it is made of, is async: its coroutine would count as true.

    Tenacity's parts hold theirs in attributes: `retry_if_exception(predicate)`, `a | b`, `wait_chain(…)`.

    Args:
        name: its name in errors.
        part: a function, or one of tenacity's parts.
    """
    found = _async_in(part, 0, set())
    if found is not None:
        raise TypeError(
            f"{name} must be sync, and {_name_of(found)} is async: nothing awaits it, and what it returns "
            "would count as true"
        )


def checked_sync(name: str, answer: Any) -> Any:
    """Return a part's answer.

    Raises:
        TypeError: it is to be awaited, as from a lambda around an async function.
    """
    if hasattr(type(answer), "__await__"):
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(f"{name} must be sync, and gave something to be awaited ({type(answer).__name__})")
    return answer


def _async_in(part: object, depth: int, seen: set[int]) -> object:
    """Return the async function in `part`; `None` if there is none."""
    if depth > _DEEPEST or id(part) in seen:
        return None
    seen.add(id(part))
    if is_async(part):
        return part
    found = (_async_in(inner, depth + 1, seen) for inner in _inside(part))
    return next((each for each in found if each is not None), None)


def _inside(part: object) -> Iterable[object]:
    if isinstance(part, list | tuple | set | frozenset):
        return part
    if isinstance(part, dict):
        return part.values()
    if isinstance(part, partial):
        return (part.func, *part.args, *part.keywords.values())
    if isinstance(part, Callable) and not inspect.isroutine(part) and not isinstance(part, type):  # type: ignore[arg-type]
        return getattr(part, "__dict__", {}).values()
    return ()


def _name_of(function: object) -> str:
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__
