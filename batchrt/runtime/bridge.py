"""The way from sync code to an event loop: `batch` and its kin run the async path in another thread."""

from __future__ import annotations

import atexit
import concurrent.futures
import os
import queue
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sized
from contextvars import Context, copy_context
from functools import cache, partial
from typing import Final, Generic, TypeVar, cast

import anyio
from anyio import CancelScope

from batchrt.runtime.loops import LoopHandle, running_loop
from batchrt.runtime.run import Strand, current_strand, strand_context

__all__ = ["Caller", "call_blocking"]

T = TypeVar("T")

STOP_SECONDS: Final = 5.0
"""How long the interpreter's exit waits for a loop to end; cancelling what is left takes far less."""


class Caller:
    """A thread that waits for work on a loop, and meanwhile runs what the work asks it to run."""

    def __init__(self) -> None:
        self._mail: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def wait(self) -> None:
        """Serve until `release`."""
        while (request := self._mail.get()) is not None:
            request()

    def release(self) -> None:
        """Let `wait` return."""
        self._mail.put(None)

    async def run(self, function: Callable[[], T]) -> T:
        """Run `function` in the caller's thread; awaited on the loop."""
        answered, loop = anyio.Event(), LoopHandle.current()
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def serve() -> None:
            try:
                answer.set_result(function())
            except Exception as error:  # noqa: BLE001  raised where it was asked for
                answer.set_exception(error)
            loop.call(answered.set)

        self._mail.put(serve)
        await answered.wait()
        return answer.result()

    def pull(self, inputs: Iterable[T] | AsyncIterable[T]) -> Iterable[T] | AsyncIterable[T]:
        """Return `inputs` such that whatever code is behind them runs in the caller's thread.

        A generator or a database cursor belongs to the thread that made it, and may block.
        """
        if not isinstance(inputs, Iterator):
            return inputs
        return _Pulled(self, inputs)


class _Pulled(AsyncIterator[T]):
    """Iterate in the caller's thread."""

    def __init__(self, caller: Caller, iterator: Iterator[T]) -> None:
        self._caller = caller
        self._iterator = iterator

    async def __anext__(self) -> T:
        found, value = await self._caller.run(self._next)
        if not found:
            raise StopAsyncIteration
        return cast("T", value)

    def _next(self) -> tuple[bool, T | None]:
        # StopIteration cannot travel through a future.
        for value in self._iterator:
            return True, value
        return False, None


class _BackgroundLoop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        started: concurrent.futures.Future[LoopHandle] = concurrent.futures.Future()
        self._stop: anyio.Event | None = None
        self.blocked = False
        self._thread = threading.Thread(
            target=anyio.run, args=(self._main, started), name="batchrt loop", daemon=True
        )
        self._thread.start()
        self.handle = started.result()

    async def _main(self, started: concurrent.futures.Future[LoopHandle]) -> None:
        self._stop = anyio.Event()
        started.set_result(LoopHandle.current())
        await self._stop.wait()

    def stop(self) -> None:
        """End the loop and what is left on it."""
        assert self._stop is not None
        self.handle.call(self._stop.set)
        self._thread.join(STOP_SECONDS)


class _Background:
    """Keep the one background loop of the process.

    It is the only mutable state of the package that is not a run's or a client's: sync callers have
    nowhere else to keep connections alive between one call and the next. Made at the first call, ended
    at exit, left behind by a fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: _BackgroundLoop | None = None
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._stop)

    def get(self) -> _BackgroundLoop:
        with self._lock:
            if self._loop is None:
                self._loop = _BackgroundLoop()
            return self._loop

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._loop = None

    def _stop(self) -> None:
        if self._loop is not None:
            self._loop.stop()


@cache
def _background() -> _Background:
    return _Background()


def call_blocking(function: Callable[[], Awaitable[T]], caller: Caller | None = None) -> T:
    """Await `function()` on a loop in another thread and return its result.

    From a function that a run called in a thread: on that run's loop, as part of it. From anywhere else:
    on the background loop. If the calling thread runs an event loop (a notebook, a service), that loop
    stands still meanwhile, as with any blocking call.

    An interrupt (Ctrl-C) of the calling thread cancels the work and waits for its end.
    """
    ticket = _Ticket(function, caller or Caller())
    strand, context = current_strand(), copy_context()
    blocks_a_loop = running_loop() is not None
    if strand is not None and strand.run.loop is not None and not blocks_a_loop:
        with strand.watching(ticket.cancel):
            return ticket.redeem(strand.run.loop, context)
    if strand is None or not blocks_a_loop:
        return _on_background(ticket, context)
    with strand.standing_in() as own:
        return _on_background(ticket, strand_context(own, context))


def _on_background(ticket: _Ticket[T], context: Context) -> T:
    loop = _background().get()
    if loop.handle.here():
        # Async code on the background loop blocks it: the work needs another.
        loop.blocked = True
        try:
            return _on_spare(ticket, context)
        finally:
            loop.blocked = False
    if loop.blocked:
        return _on_spare(ticket, context)
    return ticket.redeem(loop.handle, context)


def _on_spare(ticket: _Ticket[T], context: Context) -> T:
    spare = _BackgroundLoop()
    try:
        return ticket.redeem(spare.handle, context)
    finally:
        spare.stop()


class _Ticket(Generic[T]):
    """One call handed to a loop, cancellable from any thread."""

    def __init__(self, function: Callable[[], Awaitable[T]], caller: Caller) -> None:
        self._function = function
        self._caller = caller
        self._loop: LoopHandle | None = None
        self._scope: CancelScope | None = None
        self._cancelled = False
        self._task: object = None
        self._result: T | None = None
        self._error: BaseException | None = None

    def redeem(self, loop: LoopHandle, context: Context) -> T:
        """Start on `loop` and wait."""
        self._loop = loop
        loop.call(partial(self._start, loop, context))
        try:
            self._caller.wait()
        except BaseException:
            self.cancel()
            self._caller.wait()
            raise
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None
        return cast("T", self._result)

    def cancel(self) -> None:
        """End the call early; it raises when its work has ended."""
        self._cancelled = True
        if self._loop is not None:
            self._loop.call(self._cancel_scope)

    def _cancel_scope(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def _start(self, loop: LoopHandle, context: Context) -> None:
        self._task = loop.start(self._main, context, "batchrt call")

    async def _main(self) -> None:
        try:
            with CancelScope() as self._scope:
                if self._cancelled:
                    self._scope.cancel()
                self._result = await self._function()
                return
            self._error = concurrent.futures.CancelledError("the run was cancelled")
        except anyio.get_cancelled_exc_class():
            self._error = concurrent.futures.CancelledError("the event loop ended")
        except BaseException as error:  # noqa: BLE001  raised in the calling thread
            self._error = error
        finally:
            self._caller.release()
