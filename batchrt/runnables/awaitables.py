"""Awaitable outputs, awaited until a plain value is left: an awaitable is never an item's output."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Final

from batchrt.runtime.portal import call_blocking
from batchrt.runtime.threads import is_awaitable

__all__ = ["PLAIN_TYPES", "awaiting_method", "resolve", "resolve_without_loop"]

PLAIN_TYPES: Final = frozenset((str, int, float, bool, dict, list, tuple, type(None)))
"""Types of outputs that are neither awaitable nor runnable: most outputs pass by this one lookup."""


async def resolve(output: Any) -> Any:
    """Await `output`, and its result in turn, until it is not awaitable."""
    while hasattr(type(output), "__await__"):
        output = await output
    return output


def resolve_without_loop(output: Any) -> Any:
    """Do `resolve` on the background event loop, for a run in a thread that has none."""
    return call_blocking(partial(resolve, output))


def awaiting_method(invoke: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a class's `invoke` so that an awaitable result is awaited on the background event loop.

    A plain decorator around an async function returns one. A run takes the wrapped method from the
    attribute `unawaited`, since it awaits on its own event loop.
    """

    @wraps(invoke)
    def awaiting(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = invoke(self, *args, **kwargs)
        if not is_awaitable(output):
            return output

        async def wait() -> Any:
            return await output

        return call_blocking(wait)

    awaiting.unawaited = invoke  # type: ignore[attr-defined]
    return awaiting
