"""Event loops seen from outside: what other threads can call into, and tasks of no caller.

The two things AnyIO has no public name for. Everything that depends on which library runs the loop is
here.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

import anyio
import anyio.lowlevel
from anyio.lowlevel import EventLoopToken

__all__ = ["LoopHandle", "cancellation_is_real", "running_loop"]


class LoopHandle:
    """Reach one event loop, from its own thread or any other."""

    __slots__ = ("_native", "_thread", "token")

    def __init__(self, token: EventLoopToken) -> None:
        self.token = token
        self._native: Any = token.native_token
        self._thread = threading.get_ident()

    @classmethod
    def current(cls) -> LoopHandle:
        """Return a handle on the running loop."""
        return cls(anyio.lowlevel.current_token())

    def here(self) -> bool:
        """Whether the calling thread is the loop's own."""
        return threading.get_ident() == self._thread

    def same(self, other: LoopHandle) -> bool:
        """Whether both are handles on one loop."""
        return self._native is other._native

    def call(self, function: Callable[[], object]) -> None:
        """Call `function` on the loop: at once from its own thread, soon from another.

        Does nothing once the loop has ended: there is nobody left to tell.
        """
        if threading.get_ident() == self._thread:
            function()
            return
        native = self._native
        if hasattr(native, "call_soon_threadsafe"):
            with contextlib.suppress(RuntimeError):  # asyncio: the loop is closed
                native.call_soon_threadsafe(function)
        else:
            with contextlib.suppress(sys.modules["trio"].RunFinishedError):
                native.run_sync_soon(function)


    def start(
        self, function: Callable[[], Coroutine[Any, Any, None]], context: Context, name: str
    ) -> object:
        """Start `function` as a task that belongs to the loop and to no caller's scope; on its thread.

        Whoever starts it holds what is returned (asyncio keeps only weak references to tasks) and sees
        to it that the task ends. `function` must not raise.
        """
        native = self._native
        sniffio: Any = sys.modules.get("sniffio")
        if sniffio is not None:
            # The context may come from a thread whose loop is another library's.
            context.run(sniffio.current_async_library_cvar.set, None)
        if hasattr(native, "create_task"):
            return native.create_task(function(), context=context, name=name)
        trio: Any = sys.modules["trio"]
        return trio.lowlevel.spawn_system_task(function, context=context, name=name)


def running_loop() -> EventLoopToken | None:
    """Return the token of the loop that runs in this thread, if one does."""
    try:
        return anyio.lowlevel.current_token()
    except anyio.NoEventLoopError:
        return None


def cancellation_is_real() -> bool:
    """Whether somebody cancelled the current task, or user code merely raised the exception for it.

    On asyncio anybody can raise `CancelledError`, and awaiting somebody else's cancelled task does;
    Trio lets only a cancel scope do so.
    """
    task: Any = _native_task()
    if task is None or task.cancelling():
        return True
    return anyio.current_effective_deadline() == -math.inf


def _native_task() -> object | None:
    if hasattr(anyio.lowlevel.current_token().native_token, "create_task"):
        task: object = sys.modules["asyncio"].current_task()
        return task
    return None
