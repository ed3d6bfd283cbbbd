"""The way from sync code to an event loop: `batch` and its kin run the async path in another thread."""

from __future__ import annotations

import atexit
import concurrent.futures
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sized,
)
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

import anyio
import anyio.lowlevel
from anyio import CancelScope

from batchrt.runtime.async_input import is_iterable
from batchrt.runtime.blocked_loops import Blockade
from batchrt.runtime.event_loop import LoopHandle, check_waiting_task, running_loop
from batchrt.runtime.run import Run, Strand, current_strand, strand_context
from batchrt.runtime.stream import Stream

__all__ = ["Caller", "Crossing", "call_blocking", "crossing", "iterate"]

T = TypeVar("T")

STOP_SECONDS: Final = 5.0
"""How long the interpreter's exit waits for a loop to end; cancelling what is left takes far less."""

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
"""What any thread may iterate over: there is no code of the caller's behind it."""


class LoopEndedError(RuntimeError):
    """Say that an event loop has ended, and what belonged to it with it."""


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
    """Iterate over what has a length in the caller's thread."""

    def __len__(self) -> int:
        return len(cast("Sized", self._inputs))


class _BackgroundLoop:
    """An event loop in a thread of its own, which `open` starts."""

    def __init__(self) -> None:
        self._started: concurrent.futures.Future[LoopHandle] = concurrent.futures.Future()
        self._stop: anyio.Event | None = None
        self._thread: threading.Thread | None = None
        self.blocked = 0
        self.ended = False

    def open(self) -> bool:
        """Start it, or wait for the thread that does, and return when it runs.

        `False` if that thread is this one, further down its stack: a finalizer or a signal handler runs
        there, and whoever waits for the frame that it interrupts waits for ever.
        """
        me = (object(), threading.get_ident())
        # In one step: of all that ask at once, one starts it.
        opener = self.__dict__.setdefault("opener", me)
        if opener is me:
            self._start()
        elif opener[1] == me[1] and not self._started.done():
            return False
        self._started.result()
        return True

    def _start(self) -> None:
        try:
            # In a context of its own: in one that says which loop runs, AnyIO would start none.
            self._thread = threading.Thread(
                target=Context().run, args=(anyio.run, self._main), name="batchrt loop", daemon=True
            )
            self._thread.start()
        except BaseException as error:
            self.ended = True
            interrupted = RuntimeError("the start of the background event loop was interrupted")
            self._started.set_exception(error if isinstance(error, Exception) else interrupted)
            raise

    @property
    def handle(self) -> LoopHandle:
        """The way to the loop, once it is open."""
        return self._started.result()

    async def _main(self) -> None:
        if self.ended:  # as it was started
            return
        self._stop = anyio.Event()
        self._started.set_result(LoopHandle.current())
        try:
            await self._stop.wait()
        finally:
            # Also when a task of the user's raised SystemExit, which ends an asyncio loop.
            self.ended = True

    def stop(self) -> None:
        """End the loop and what is left on it."""
        if self._thread is not None and self._stop is not None:
            self.handle.call(self._stop.set)
            self._thread.join(STOP_SECONDS)


class _Background:
    """Keep the one background loop of the process.

    It is the only mutable state of the package that is not a run's or a client's: sync callers have
    nowhere else to keep connections alive between one call and the next. Made at the first call, ended
    at exit, left behind by a fork.

    Its exit handler is registered on import, and so called after those that users of the package
    register: from Python 3.12 on, no other loop could be started for them. There is no lock; see
    `_BackgroundLoop.open`.
    """

    def __init__(self) -> None:
        self._loop = _BackgroundLoop()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._stop)

    @contextmanager
    def loop(self) -> Iterator[LoopHandle]:
        """Return the loop, or one of its own for a caller that blocks it or would wait for one who does.

        Raises:
            RuntimeError: if the interpreter is exiting, and no other thread runs any more.
        """
        if sys.is_finalizing():
            raise RuntimeError("the interpreter is exiting: nothing can be run on an event loop any more")
        loop = self._current()
        opened = loop.open()
        blocks = opened and loop.handle.here()
        if opened and not (blocks or loop.blocked):
            yield loop.handle
            return
        loop.blocked += blocks
        spare = _BackgroundLoop()
        spare.open()
        try:
            yield spare.handle
        finally:
            spare.stop()
            loop.blocked -= blocks

    def _current(self) -> _BackgroundLoop:
        loop = self._loop
        while loop.ended:
            # In one step: of all that find it ended, one says which is the next.
            loop = self._loop = loop.__dict__.setdefault("successor", _BackgroundLoop())
        return loop

    def _forget(self) -> None:
        self._loop = _BackgroundLoop()

    def _stop(self) -> None:
        loop = self._loop
        self._loop = _BackgroundLoop()
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
        blocked = LoopHandle.running()
        self._blockade = None if blocked is None else Blockade(blocked, loop)

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
        strand = self._watched
        ticket = _Ticket(function, self._caller, strand)
        if strand is None:
            self._redeem(ticket, polls=check_waiting_task())
        else:
            # In a thread of the runtime's own, the strand is told.
            polls = not strand.in_thread and check_waiting_task()
            with strand.watching(ticket.cancel):
                self._redeem(ticket, polls=polls)
        return ticket

    def _redeem(self, ticket: _Ticket[Any], *, polls: bool = False) -> None:
        context = copy_context() if self._own is None else strand_context(self._own)
        if self._blockade is not None:
            self._blockade.enter(context)
        if self._blockade is not None and self._blockade.loop.here():
            with self._blockade.blocking():
                ticket.redeem(self._loop, context, polls=polls)
        else:  # also an iterator that was handed to another thread, which blocks no loop
            ticket.redeem(self._loop, context, polls=polls)

    @contextmanager
    def closing(self, stream: Stream[Any]) -> Iterator[None]:
        """End `stream` at exit, and as soon as the strand ends.

        There is no wait for its end where that is impossible: where the loop's own thread collects a
        generator as garbage, or the loop has ended.
        """
        try:
            if self._watched is None:
                yield
            else:
                with self._watched.watching(partial(self._drop, stream, self._watched.run)):
                    yield
        finally:
            # Whatever input was asked for meanwhile is not wanted any more, and might be long in coming.
            self._caller.retire()
            if self._loop.here():
                stream.drop()
            elif not stream.over:
                # Neither watched nor polled for: a cancellation is no reason to leave it open.
                ticket = _Ticket(stream.aclose, self._caller, self._watched)
                with suppress(LoopEndedError):
                    self._redeem(ticket)

    def _drop(self, stream: Stream[Any], run: Run) -> None:
        self._loop.call(partial(stream.drop, run))


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


CHUNK: Final = 64
"""How many ready outcomes a sync iterator fetches at a time: crossing threads costs some 50 µs."""


def iterate(stream: Stream[T], caller: Caller) -> Generator[T, None, None]:
    """Iterate over `stream` in the calling thread; closing the generator ends the run."""
    with crossing(caller) as call, call.closing(stream):
        while True:
            ticket = call.settle(partial(stream.next_chunk, CHUNK))
            if ticket.failed:
                break
            yield from ticket.result()
    # Raised out here: a context manager of contextlib's fails on an exception that is frozen.
    with suppress(StopAsyncIteration):
        ticket.result()


class _Ticket(Generic[T]):
    """One call handed to a loop, cancellable from any thread."""

    def __init__(
        self, function: Callable[[], Awaitable[T]], caller: Caller, strand: Strand | None = None
    ) -> None:
        self._function = function
        self._caller = caller
        self._run = None if strand is None else strand.run
        self._loop: LoopHandle | None = None
        self._scope: CancelScope | None = None
        self._cancelled = False
        self._task: object = None
        self._result: T | None = None
        self._error: BaseException | None = concurrent.futures.CancelledError("the event loop ended")
        self._ended = False

    def redeem(self, loop: LoopHandle, context: Context, *, polls: bool = False) -> None:
        """Start on `loop` and wait for the end; with `polls` as in `Caller.poll`."""
        self._loop = loop
        if not loop.call(partial(self._start, loop, context)):
            raise LoopEndedError("the event loop that this belongs to has ended")
        try:
            if polls:
                self._caller.poll(self)
            else:
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

    @property
    def failed(self) -> bool:
        """Whether `result` will raise."""
        return self._error is not None

    def cancel(self) -> None:
        """End the call early; it raises when its work has ended."""
        self._cancelled = True
        if self._loop is not None:
            self._loop.call(self._cancel_scope)

    def _cancel_scope(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def _start(self, loop: LoopHandle, context: Context) -> None:
        if self._run is not None:
            self._run.begin_call()
        self._task = loop.start(self._main, context, "batchrt call", self._end)

    async def _main(self) -> None:
        try:
            with CancelScope() as self._scope:
                if self._cancelled:
                    self._scope.cancel()
                    await anyio.lowlevel.checkpoint()  # before any code of the user's
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
        if self._run is not None:
            self._run.end_call()
        self._caller.release(self)
