"""A thread that waits for work on an event loop, and runs code that belongs to it meanwhile."""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import sys
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sized,
)
from typing import Any, Final, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.lowlevel
from anyio import CancelScope

from batchrt.runtime.async_input import is_iterable
from batchrt.runtime.event_loop import LoopHandle

__all__ = ["Caller", "check_waiting_task"]

T = TypeVar("T")

POLL_SECONDS: Final = 0.05
"""How often a thread that a user's function started, with AnyIO or Trio, asks whether the function was
cancelled: neither library tells it."""


IN_MEMORY: Final[tuple[type[Any], ...]] = (
    str,
    bytes,
    list,
    tuple,
    range,
    dict,
    set,
    frozenset,
    deque,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)
"""Types that any thread may iterate over: no code of the caller's is behind them."""


class Caller:
    """A thread that waits for work on a loop, and meanwhile runs functions that the work hands it.

    Attributes:
        look: called now and then while it waits; may raise to end the wait. `None` for no such function.
    """

    def __init__(self) -> None:
        self.look: Callable[[], None] | None = None
        self._mail: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._retired = False

    def wait(self, token: object) -> None:
        """Serve until `release(token)`."""
        while (request := self._mail.get()) is not token:
            self._serve(request)

    def poll(self, token: object) -> None:
        """Do `wait`, but raise the cancellation of the task that waits for this thread."""
        while True:
            try:
                request = self._mail.get(timeout=POLL_SECONDS)
            except queue.Empty:
                check_waiting_task()
                continue
            if request is token:
                return
            self._serve(request)

    def _serve(self, request: object) -> None:
        if callable(request) and not self._retired:
            request()

    def release(self, token: object) -> None:
        """Let `wait(token)` return."""
        self._mail.put(token)

    def retire(self) -> None:
        """Run no function any more, not even a queued one: the work is about to be cancelled."""
        self._retired = True

    async def run(self, function: Callable[[], T]) -> T:
        """Run `function` in the caller's thread; awaited on the loop.

        A call that has begun is waited for, whatever cancels this: the thread does nothing else before it
        returns, and a value that it takes from an iterator would be lost.
        """
        answered, loop = anyio.Event(), LoopHandle.current()
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def serve() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(function())
            except BaseException as error:
                answer.set_exception(error)
                if not isinstance(error, Exception):  # an interrupt is the thread's own
                    raise
            finally:
                loop.call(answered.set)

        self._mail.put(serve)
        try:
            await answered.wait()
        except anyio.get_cancelled_exc_class():
            if answer.cancel():
                raise
            with CancelScope(shield=True):
                await answered.wait()
            if isinstance(answer.exception(), KeyboardInterrupt | SystemExit):
                raise
        return answer.result()

    def pull(self, inputs: Iterable[T] | AsyncIterable[T]) -> Iterable[T] | AsyncIterable[T]:
        """Return `inputs` such that whatever code is behind them runs in the caller's thread.

        A generator or a database cursor belongs to the thread that made it, and may block.
        """
        if isinstance(inputs, IN_MEMORY) or not is_iterable(inputs):
            return inputs
        if isinstance(inputs, Sized) and not hasattr(type(inputs), "__next__"):
            return _PulledAll(self, inputs)
        return _Pulled(self, inputs)


class _Pulled(AsyncIterator[T]):
    """Iterate in the caller's thread."""

    def __init__(self, caller: Caller, inputs: Iterable[T]) -> None:
        self._caller = caller
        self._inputs = inputs
        self._iterator: Iterator[T] | None = None

    async def __anext__(self) -> T:
        found, value = await self._caller.run(self._next)
        if not found:
            raise StopAsyncIteration
        return cast("T", value)

    def _next(self) -> tuple[bool, T | None]:
        if self._iterator is None:
            self._iterator = iter(self._inputs)
        try:
            return True, next(self._iterator)
        except StopIteration:  # which cannot travel through a future
            return False, None


class _PulledAll(_Pulled[T]):
    """Iterate over a sized iterable in the caller's thread."""

    def __len__(self) -> int:
        return len(cast("Sized", self._inputs))


def check_waiting_task() -> bool:
    """Raise the cancellation of the task that waits for this worker thread, if it was cancelled.

    Threads of AnyIO's and Trio's can ask, whose tasks wait for the thread behind a shield; `False` in others.

    Raises:
        BaseException: the library's cancellation; an interrupt, if Trio has one for that task.
    """
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        with contextlib.suppress(RuntimeError):  # not a thread of Trio's
            trio.from_thread.check_cancelled()
            return True
    try:
        anyio.from_thread.check_cancelled()
    except RuntimeError:
        return False
    return True
