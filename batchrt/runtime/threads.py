"""Sync functions in worker threads."""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any

import anyio
import anyio.to_thread
from anyio import CancelScope

from batchrt.runtime.event_loop import Signal
from batchrt.runtime.strand import Strand

__all__ = ["call_in_thread", "is_awaitable"]


def is_awaitable(output: object) -> bool:
    """Whether `output` is to be awaited; only its type is asked, for a proxy may do anything."""
    return hasattr(type(output), "__await__")


class _Call:
    """A function's call in a worker thread, and its result.

    There is no lock: a finalizer may run at any moment, call this package and wait for the loop's thread,
    which must not wait for this one then.
    """

    __slots__ = ("_ended", "_error", "_function", "_on_end", "_result", "_unclaimed", "_value")

    def __init__(self, function: Callable[[Any], Any], value: Any) -> None:
        self._function = function
        self._value = value
        self._unclaimed: list[None] = [None]
        self._ended = False
        self._on_end: Callable[[], object] | None = None
        self._result: Any = None
        self._error: BaseException | None = None

    def _claim(self) -> bool:
        """Whether the call is the caller's: to be made, or never to be made."""
        try:
            self._unclaimed.pop()
        except IndexError:
            return False
        return True

    def run(self) -> None:
        """Be called in the thread; the result stays here.

        AnyIO's and Trio's threads look at results and errors: one takes coroutines for a mistake, another is
        lost with an exception that cannot be looked at.
        """
        if not self._claim():  # cancelled before it began
            return
        try:
            self._result = self._function(self._value)
        except BaseException as error:  # noqa: BLE001  raised by `result`
            self._error = error
        self._ended = True
        if self._on_end is not None:
            self._on_end()

    def result(self) -> Any:
        """Return the function's result, or raise its error."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        except (StopIteration, GeneratorExit):
            # Neither can travel through a coroutine, where it would mean the end.
            name = "StopIteration" if isinstance(error, StopIteration) else "GeneratorExit"
            raise RuntimeError(f"the function raised {name}") from error
        finally:
            del error

    async def wait_for_end(self) -> None:
        """Return when the function is no longer running, and never will be."""
        if not self._claim():
            signal = Signal()
            self._on_end = signal.set
            if not self._ended:  # it looks for `_on_end` once it has said so
                with CancelScope(shield=True):
                    await signal.wait()
        if isinstance(self._result, CoroutineType):
            self._result.close()  # it will not be awaited


async def call_in_thread(function: Callable[[Any], Any], value: Any, strand: Strand) -> Any:
    """Run `function(value)` in a worker thread, with the caller's context variables.

    The strand holds a slot. A cancellation is passed on to the call that the function waits for, if that is
    nested work of this package; the function itself cannot be interrupted and is waited for. If it returns
    an awaitable, as a plain wrapper of an async function does, that is awaited here.
    """
    call = _Call(function, value)
    strand.enter_thread()
    try:
        # `abandon_on_cancel` lets a cancellation through; nothing is abandoned, see below.
        await anyio.to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=strand.run.threads)
    except anyio.get_cancelled_exc_class():
        strand.cancel_nested()
        await call.wait_for_end()
        raise
    finally:
        strand.leave_thread()
    result = call.result()
    return await result if is_awaitable(result) else result
