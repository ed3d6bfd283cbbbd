"""Sync functions in worker threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
from anyio import CancelScope

from batchrt.runtime.loops import Signal
from batchrt.runtime.run import Strand

__all__ = ["call_in_thread"]

T = TypeVar("T")


class _Call:
    """A function's call in a worker thread, and whether it has ended."""

    __slots__ = ("_ended", "_function", "_lock", "_on_end", "_started", "_value")

    def __init__(self, function: Callable[[Any], Any], value: Any) -> None:
        self._function = function
        self._value = value
        self._lock = threading.Lock()
        self._started = False
        self._ended = False
        self._on_end: Callable[[], None] | None = None

    def run(self) -> tuple[Any]:
        """Be called in the thread; the output is in a tuple.

        Trio takes a function that returns a coroutine for a mistake.
        """
        with self._lock:
            if self._ended:  # cancelled before it began
                return (None,)
            self._started = True
        try:
            return (self._function(self._value),)
        except StopIteration as error:
            # It cannot travel through a coroutine, where it would mean the end.
            raise RuntimeError("the function raised StopIteration") from error
        finally:
            with self._lock:
                self._ended = True
            if self._on_end is not None:
                self._on_end()

    async def wait_for_end(self) -> None:
        """Return when the function is no longer running, and never will be."""
        signal = Signal()
        with self._lock:
            if self._ended or not self._started:
                self._ended = True
                return
            self._on_end = signal.set
        with CancelScope(shield=True):
            await signal.wait()


async def call_in_thread(function: Callable[[Any], T], value: Any, strand: Strand) -> T:
    """Run `function(value)` in a worker thread, with the caller's context variables.

    The strand holds a slot. A cancellation is passed on to what the function waits for, if that is
    nested work of this package; the function itself cannot be interrupted and is waited for.
    """
    call = _Call(function, value)
    with strand.visiting_thread():
        try:
            # `abandon_on_cancel` lets a cancellation through; nothing is abandoned, see below.
            (output,) = await anyio.to_thread.run_sync(
                call.run, abandon_on_cancel=True, limiter=strand.run.threads
            )
        except anyio.get_cancelled_exc_class():
            strand.cancel_nested()
            await call.wait_for_end()
            raise
    return cast("T", output)
