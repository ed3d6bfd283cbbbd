"""The way from sync code to an event loop: `batch` and its kin run the async path in another thread."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import (
    Awaitable,
    Callable,
    Generator,
    Iterator,
)
from contextlib import closing, contextmanager, suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

import anyio
import anyio.lowlevel
from anyio import CancelScope

from batchrt.runtime.background_loop import background
from batchrt.runtime.blocked_loops import Blockade
from batchrt.runtime.caller import Caller, check_waiting_task
from batchrt.runtime.event_loop import LoopHandle, running_loop
from batchrt.runtime.run import Run
from batchrt.runtime.strand import Strand, current_strand, strand_context
from batchrt.runtime.stream import Delivery

__all__ = ["Crossing", "call_blocking", "crossing", "fetches", "iterate"]

T = TypeVar("T")


class LoopEndedError(RuntimeError):
    """Say that an event loop has ended, and its tasks with it."""


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
            SystemExit: if the interpreter's exit has ended the loop, in a daemon thread.
        """
        if self._loop.here():
            raise RuntimeError("this was begun in another thread, and cannot go on in its event loop's own")
        ticket = _Ticket(function, self._caller, self._watched)
        try:
            self._hand_over(ticket)
        except LoopEndedError:
            self._end_daemon_thread()
            raise
        if ticket.cut_off:
            self._end_daemon_thread()
        return ticket

    def _end_daemon_thread(self) -> None:
        # No run waits for this thread, nor does an event loop run in it: nothing else sees the exception.
        if self._watched is None and self._blockade is None:
            background.end_daemon_thread()

    def _hand_over(self, ticket: _Ticket[Any]) -> None:
        strand = self._watched
        if strand is None:
            self._redeem(ticket, polls=check_waiting_task())
        else:
            # In a thread of the runtime's own, the strand is told.
            polls = not strand.in_thread and check_waiting_task()
            with strand.watching(ticket.cancel):
                self._redeem(ticket, polls=polls)

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
    def closing(self, stream: Delivery[Any]) -> Iterator[None]:
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

    def _drop(self, stream: Delivery[Any], run: Run) -> None:
        self._loop.call(partial(stream.drop, run))


@contextmanager
def crossing(caller: Caller) -> Iterator[Crossing]:
    """Find the loop for the calling thread's work.

    From a function that a run called in a thread: that run's loop, as part of it. From anywhere else:
    the background loop. If the calling thread runs an event loop (a notebook, a service), that loop
    stands still while a call is awaited, as with any blocking call. A call that could only wait for that loop
    then fails with a `BlockedEventLoopError`.
    """
    strand, blocks_a_loop = current_strand(), running_loop() is not None
    if strand is not None and strand.run.loop is not None and not blocks_a_loop:
        yield Crossing(strand.run.loop, caller, watched=strand)
    elif strand is None or not blocks_a_loop:
        if strand is None and not blocks_a_loop:
            background.end_daemon_thread()
        with background.loop() as loop:
            yield Crossing(loop, caller)
    else:
        with strand.standing_in() as own, background.loop() as loop:
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


def iterate(stream: Delivery[T], caller: Caller) -> Generator[T, None, None]:
    """Iterate over `stream` in the calling thread; closing the generator ends the run."""
    fetched: deque[T] = deque()
    with closing(fetches(stream, caller, fetched)) as turns:
        for _ in turns:
            while fetched:
                yield fetched.popleft()


def fetches(stream: Delivery[T], caller: Caller, fetched: deque[T]) -> Generator[None, None, None]:
    """Append chunks of `stream` to `fetched`, one for each `next`, from the calling thread; see `iterate`.

    An interrupt of the calling thread loses no value that was handed out for it.
    """

    async def fetch() -> None:
        fetched.extend(await stream.next_chunk(CHUNK))

    with crossing(caller) as call, call.closing(stream):
        while True:
            ticket = call.settle(fetch)
            if ticket.failed:
                break
            yield
    # Raised out here: a context manager of contextlib's fails on an exception that is frozen.
    with suppress(StopAsyncIteration):
        ticket.result()


class _Ticket(Generic[T]):
    """One call handed to a loop, cancellable from any thread.

    Attributes:
        cut_off: whether the loop ended before the call did.
    """

    def __init__(
        self, function: Callable[[], Awaitable[T]], caller: Caller, strand: Strand | None = None
    ) -> None:
        self._function = function
        self._caller = caller
        self.cut_off: bool = True
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
        try:
            is_open = loop.call(partial(self._start, loop, context))
            if is_open and polls:
                self._caller.poll(self)
            elif is_open:
                self._caller.wait(self)
        except BaseException:
            self._caller.look = None
            self._caller.retire()
            self.cancel()
            # The interrupt may have come before it was handed over, or when all was over.
            if loop.call(self._end_unstarted) and not self._ended:
                self._caller.wait(self)
            raise
        if not is_open:
            raise LoopEndedError("the event loop that this belongs to has ended")

    def result(self) -> T:
        """Return its result, or raise its error."""
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
            if self._scope.cancelled_caught:
                self._error = concurrent.futures.CancelledError("the run was cancelled")
        except anyio.get_cancelled_exc_class():
            return  # the loop ends, and the error says so
        except BaseException as error:  # noqa: BLE001  raised in the calling thread
            self._error = error
        self.cut_off = False

    def _end_unstarted(self) -> None:
        if self._task is None and not self._ended:
            self._ended = True
            self._caller.release(self)

    def _end(self) -> None:
        self._ended = True
        if self._run is not None:
            self._run.end_call()
        self._caller.release(self)
