"""Types of a function's parameter and result, by its annotations."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, get_args, get_origin, get_type_hints

from batchrt.runnables.base import Runnable

__all__ = ["parameter_type", "result_type"]


def parameter_type(function: Callable[..., Any]) -> Any:
    """Return the type of the first parameter; `Any` if it is not known."""
    try:
        first = next(iter(inspect.signature(function).parameters), None)
    except (TypeError, ValueError):  # builtins have none
        return Any
    return _hints(function).get(first, Any) if first is not None else Any


def result_type(function: Callable[..., Any]) -> Any:
    """Return the type of the result, awaited; `Any` if it is not known, or a runnable that is run."""
    hint = _hints(function).get("return", Any)
    if get_origin(hint) in (Awaitable, Coroutine):
        hint = get_args(hint)[-1]
    kind = get_origin(hint) or hint
    return Any if isinstance(kind, type) and issubclass(kind, Runnable) else hint


def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (TypeError, NameError, AttributeError):
        return {}
