"""The way from sync code to an event loop: `batch` and its kin run the async path in another thread."""

from __future__ import annotations

import atexit
import concurrent.futures
import os
import queue
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

import anyio
import anyio.from_thread
from anyio import CancelScope

from batchrt.runtime.blocking import Blockade
from batchrt.runtime.loops import LoopHandle, running_loop
from batchrt.runtime.run import Strand, current_strand, strand_context

__all__ = ["Caller", "Crossing", "call_blocking", "crossing"]

T = TypeVar("T")

STOP_SECONDS: Final = 5.0
"""How long the interpreter's exit waits for a loop to end; cancelling what is left takes far less."""

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
"""What any thread may iterate over: there is no code of the caller's behind it."""


LOOK_SECONDS: Final = 0.1
"""How often a worker thread of AnyIO's looks whether its scope was cancelled: nothing would wake it."""


def _scope_of_worker() -> Callable[[], None] | None:
    """Return what raises once the scope is cancelled that this worker thread of AnyIO's was started from.

    A thread cannot be interrupted, so `to_thread.run_sync(chain.batch, rows)` has to look for itself. `None`
    in other threads.
    """
    try:
        anyio.from_thread.check_cancelled()
    except RuntimeError:  # this is no worker thread (AnyIO's NoEventLoopError is one)
        return None
    return anyio.from_thread.check_cancelled


class Caller:
    """A thread that waits for work on a loop, and meanwhile runs what the work asks it to run.

    Attributes:
        look: called now and then while it waits, to raise what ends the wait; `None` for nothing.
    """

    def __init__(self) -> None:
        self.look: Callable[[], None] | None = None
        self._mail: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._retired = False

    def wait(self, token: object) -> None:
        """Serve until `release(token)`."""
        look = self.look
        while True:
            try:
                request = self._mail.get(timeout=None if look is None else LOOK_SECONDS)
            except queue.Empty:
                assert look is not None
                look()
                continue
            if request is token:
                return
            if callable(request) and not self._retired:
                request()

    def release(self, token: object) -> None:
        """Let `wait(token)` return."""
        self._mail.put(token)

    def retire(self) -> None:
        """Run nothing any more, not even what was asked for already: the work is about to be cancelled."""
        self._retired = True

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
        if isinstance(inputs, IN_MEMORY) or not isinstance(inputs, Iterable):
            return inputs
        if isinstance(inputs, Sized) and not hasattr(inputs, "__next__"):
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
        # StopIteration cannot travel through a future.
        for value in self._iterator:
            return True, value
        return False, None


class _PulledAll(_Pulled[T]):
    """Iterate over what has a length in the caller's thread."""

    def __len__(self) -> int:
        return len(cast("Sized", self._inputs))


class _BackgroundLoop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        started: concurrent.futures.Future[LoopHandle] = concurrent.futures.Future()
        self._stop: anyio.Event | None = None
        self.blocked = 0
        self.ended = False
        self._thread = threading.Thread(
            target=anyio.run, args=(self._main, started), name="batchrt loop", daemon=True
        )
        self._thread.start()
        self.handle = started.result()

    async def _main(self, started: concurrent.futures.Future[LoopHandle]) -> None:
        self._stop = anyio.Event()
        started.set_result(LoopHandle.current())
        try:
            await self._stop.wait()
        finally:
            # Also when a task of the user's raised SystemExit, which ends an asyncio loop.
            self.ended = True

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

    Its exit handler is registered on import, and so called after those that users of the package
    register: from Python 3.12 on, no other loop could be started for them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: _BackgroundLoop | None = None
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._stop)

    @contextmanager
    def loop(self) -> Iterator[LoopHandle]:
        """Return the loop, or one of its own for a caller that blocks it or would wait for one who does."""
        loop = self._get()
        blocks = loop.handle.here()
        if not (blocks or loop.blocked):
            yield loop.handle
            return
        loop.blocked += blocks
        spare = _BackgroundLoop()
        try:
            yield spare.handle
        finally:
            spare.stop()
            loop.blocked -= blocks

    def _get(self) -> _BackgroundLoop:
        with self._lock:
            if self._loop is None or self._loop.ended:
                self._loop = _BackgroundLoop()
            return self._loop

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._loop = None

    def _stop(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()


_background: Final = _Background()


class Crossing:
    """The way from a thread to one loop, for calls that belong together."""

    def __init__(
        self,
        loop: LoopHandle,
        caller: Caller,
        *,
        watched: Strand | None = None,
        own: Strand | None = None,
    ) -> None:
        self._loop = loop
        self._caller = caller
        self._watched = watched
        self._own = own
        blocked = running_loop()
        self._blockade = None if blocked is None else Blockade(LoopHandle(blocked), loop)

    def __call__(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await `function()` on the loop and return its result; see `settle`."""
        return self.settle(function).result()

    def settle(self, function: Callable[[], Awaitable[T]]) -> _Ticket[T]:
        """Await `function()` on the loop.

        Raises:
            RuntimeError: if the loop has ended, or is the calling thread's own, which would wait forever.
        """
        if self._loop.here():
            raise RuntimeError("this was begun in another thread, and cannot go on in its event loop's own")
        ticket, context = _Ticket(function, self._caller), copy_context()
        if self._own is not None:
            context = strand_context(self._own, context)
        if self._watched is None:
            self._caller.look = _scope_of_worker()
        if self._blockade is not None:
            self._blockade.enter(context)
            with self._blockade.blocking():
                ticket.redeem(self._loop, context)
        elif self._watched is None:
            ticket.redeem(self._loop, context)
        else:
            with self._watched.watching(ticket.cancel):
                ticket.redeem(self._loop, context)
        return ticket


@contextmanager
def crossing(caller: Caller) -> Iterator[Crossing]:
    """Find the loop for the calling thread's work.

    From a function that a run called in a thread: that run's loop, as part of it. From anywhere else:
    the background loop. If the calling thread runs an event loop (a notebook, a service), that loop
    stands still while a call is awaited, as with any blocking call. What could only wait for that loop then
    fails with a `BlockedEventLoopError`.
    """
    strand, blocks_a_loop = current_strand(), running_loop() is not None
    if strand is not None and strand.run.loop is not None and not blocks_a_loop:
        yield Crossing(strand.run.loop, caller, watched=strand)
    elif strand is None or not blocks_a_loop:
        with _background.loop() as loop:
            yield Crossing(loop, caller)
    else:
        with strand.standing_in() as own, _background.loop() as loop:
            yield Crossing(loop, caller, own=own)


def call_blocking(function: Callable[[], Awaitable[T]], caller: Caller | None = None) -> T:
    """Await `function()` on a loop in another thread and return its result; see `crossing`.

    An interrupt (Ctrl-C) of the calling thread cancels the work and waits for its end.
    """
    with crossing(caller or Caller()) as call:
        ticket = call.settle(function)
    # Raised out here: a context manager of contextlib's fails on an exception that is frozen.
    return ticket.result()


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
        self._error: BaseException | None = concurrent.futures.CancelledError("the event loop ended")
        self._ended = False

    def redeem(self, loop: LoopHandle, context: Context) -> None:
        """Start on `loop` and wait for the end."""
        self._loop = loop
        if not loop.call(partial(self._start, loop, context)):
            raise RuntimeError("the event loop that this belongs to has ended")
        try:
            self._caller.wait(self)
        except BaseException:
            self._caller.look = None
            self._caller.retire()
            self.cancel()
            if not self._ended:  # else the interrupt came when all was over
                self._caller.wait(self)
            raise

    def result(self) -> T:
        """Return what came of it, or raise it."""
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
        self._task = loop.start(self._main, context, "batchrt call", self._end)

    async def _main(self) -> None:
        try:
            with CancelScope() as self._scope:
                if self._cancelled:
                    self._scope.cancel()
                self._result = await self._function()
                self._error = None
                return
            self._error = concurrent.futures.CancelledError("the run was cancelled")
        except anyio.get_cancelled_exc_class():
            return  # the loop ends, and the error says so
        except BaseException as error:  # noqa: BLE001  raised in the calling thread
            self._error = error

    def _end(self) -> None:
        self._ended = True
        self._caller.release(self)
