"""Outcomes handed over while the run goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from itertools import islice
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar, cast

import anyio
from anyio import CancelScope

from batchrt.errors import BlockedEventLoopError, DeadlineExceededError
from batchrt.runtime.batch import Job
from batchrt.runtime.blocked_loops import all_blocked, blocked_error, current_blockades
from batchrt.runtime.event_loop import LoopHandle, Signal
from batchrt.runtime.item import Item
from batchrt.runtime.lending import lending
from batchrt.runtime.progress_bar import ProgressBar
from batchrt.runtime.run import Run
from batchrt.runtime.scheduler import Scheduler

__all__ = ["Delivery", "Make", "State", "Stream"]

T = TypeVar("T")

_NOTHING: Final = object()
"""Stands for an item that is not handed over."""

Make: TypeAlias = "Callable[[Item, Any, Exception | None], Any]"
"""Makes the value that is handed over for an item; `None` for the output, or the error."""


def _indexed(item: Item, output: Any, error: Exception | None) -> Any:
    return item.index, output if error is None else error


class Delivery(AsyncIterator[T], Generic[T]):
    """Iterate over what a run hands over; the run starts with the first `anext`.

    The run is a task of its own, so that the iterator may be used under any cancel scope and from any
    task of the loop. It ends when there is no more, when the consumer is cancelled while it waits, or
    with `aclose`, which returns when nothing of it is running any more. Leaving an `async for` early
    closes nothing by itself, in Python: use `async with`, `contextlib.aclosing`, or drop the last
    reference, which cancels the run without waiting for it.
    """

    def __init__(self) -> None:
        self._state: State | None = None
        self._closed = False
        self._awaited = False

    def _start(self) -> State:
        """Start the run and return its state."""
        raise NotImplementedError

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next outcome, or chunk.

        Raises:
            StopAsyncIteration: when there are no more.
            Exception: the run's error, once what came before it has been handed out. With
                `return_exceptions` and inputs of known number, items that the run's deadline kept from
                being finished have that error in their places instead, as in a list.
        """
        return (await self.next_chunk(1))[0]

    async def next_chunk(self, most: int) -> list[T]:
        """Wait for one outcome and return it with up to `most` - 1 others that are ready.

        Raises:
            RuntimeError: if another task is waiting already.
            BlockedEventLoopError: if the run is on an event loop that stands still for the caller.
        """
        if self._awaited:
            raise RuntimeError("another task waits for this stream's next outcome; use one task, or a lock")
        if self._closed:
            raise StopAsyncIteration
        self._awaited = True
        try:
            return await self._next_chunk(most)
        finally:
            self._awaited = False

    async def _next_chunk(self, most: int) -> list[T]:
        state = self._state
        if state is None:
            state = self._state = self._start()
        try:
            while not state.ready:
                if state.ended.is_set():
                    if state.fill(most):
                        break
                    self._closed = True
                    state.raise_end()
                if all_blocked([state.loop], [current_blockades()]):
                    raise blocked_error("a stream's next outcome")
                # A leaf that consumes a nested stream works between the items and lends while it waits.
                async with lending(newcomers=True):
                    try:
                        await state.wait()
                    except BaseException:
                        await state.stop()  # before the slot is taken back, which the items may have
                        raise
        except BlockedEventLoopError:
            raise  # nothing can be waited for, not even the end
        except BaseException:
            await self.aclose()
            raise
        return state.take(most)

    @property
    def over(self) -> bool:
        """Whether nothing of the run is running: it has not begun, or it has ended."""
        return self._state is None or self._state.ended.is_set()

    async def aclose(self) -> None:
        """End the run and return when nothing of it is running any more."""
        self._closed = True
        state = self._state
        if state is not None and not state.ended.is_set():
            if all_blocked([state.loop], [current_blockades()]):
                state.loop.call(state.cancel)
                return  # the run ends when its loop goes on, which waits for the caller
            # Cancelled items may need the slot of the leaf that waits here.
            async with lending():
                await state.stop()

    def drop(self, run: Run | None = None) -> None:
        """End the run without waiting for its end; on its loop's thread, if for `run`, which waits then."""
        self._closed = True
        state = self._state
        if state is None or state.ended.is_set():
            return
        if run is None:
            state.loop.soon(state.cancel)
            return
        run.begin_call()
        state.ended_for.append(run.end_call)
        state.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self.drop()


class Stream(Delivery[T], Generic[T]):
    """Iterate over a run's outcomes; the run starts with the first `anext`.

    The run is a task of its own, so that the iterator may be used under any cancel scope and from any
    task of the loop. It ends when the outcomes do, when the consumer is cancelled while it waits, or
    with `aclose`, which returns when nothing of it is running any more. Leaving an `async for` early
    closes nothing by itself, in Python: use `async with`, `contextlib.aclosing`, or drop the last
    reference, which cancels the run without waiting for it.
    """

    def __init__(self, job: Job, *, ordered: bool, return_exceptions: bool = True) -> None:
        super().__init__()
        self._job = job
        self._ordered = ordered
        self._return_exceptions = return_exceptions

    def _start(self) -> State:
        job, errors = self._job, self._return_exceptions
        bounded = errors and job.config.get("deadline") is not None
        state = State(
            ordered=self._ordered,
            lead=job.lead,
            errors=errors,
            expected=job.expected if bounded else None,
            make=None if self._ordered else _indexed,
        )
        put = state.counting(ProgressBar.of(job.config, job.expected))
        state.scheduler = self._job.open(put, fail_fast=not self._return_exceptions, room=state.room)
        state.task = state.loop.start(state.host, copy_context(), "batchrt stream", state.end)
        return state


class State:
    """Hold the state that the run and its consumer share.

    The run's task refers to this and not to the `Delivery`, so that an unreferenced one is collected.
    """

    def __init__(
        self, *, ordered: bool, lead: int, errors: bool, expected: int | None, make: Make | None
    ) -> None:
        self.scope: CancelScope = CancelScope()
        self.ended: anyio.Event = anyio.Event()
        self.ended_for: list[Callable[[], object]] = []
        self.loop: LoopHandle = LoopHandle.current()
        self.scheduler: Scheduler | None = None
        self.task: object = None
        self.ready: deque[Any] = deque()
        self._ordered = ordered
        self._lead = lead
        self._errors = errors
        # How many outcomes there will be, whatever happens; `None` where the run may end before.
        self._expected = expected
        self._make = make
        self._next = 0
        self._ahead: dict[int, Any] = {}
        self._missing: Iterator[int] = iter(())
        self._failure: BaseException | None = None
        self._more: Signal | None = None

    def counting(self, bar: ProgressBar | None) -> Callable[[Item, Any, Exception | None], bool]:
        """Return `put`, which counts items on `bar` if there is one; the bar ends with the run."""
        if bar is None:
            return self.put
        self.ended_for.append(bar.close)
        return bar.counting(self.put)

    def room(self) -> bool:
        """Whether the consumer keeps up."""
        return len(self.ready) < self._lead

    def put(self, item: Item, output: Any, error: Exception | None) -> bool:
        """Take an item's output or error; return whether that delivered it."""
        make = self._make
        value = (output if error is None else error) if make is None else make(item, output, error)
        # Where errors end the run, the one that is handed over is its end, which the consumer is told of.
        nothing = error is not None and not self._errors
        if not self._ordered:
            if not nothing:
                self.ready.append(value)
                if self._expected is not None:
                    self._pass(item.index)
        else:
            self._ahead[item.index] = _NOTHING if nothing else value
            while self._next in self._ahead:
                value = self._ahead.pop(self._next)
                self._next += 1
                if value is not _NOTHING:
                    self.ready.append(value)
        self._notify()
        return nothing

    def _pass(self, index: int) -> None:
        """Record that the outcome of `index` is there; those before `_next` all are."""
        self._ahead[index] = None
        while self._next in self._ahead:
            del self._ahead[self._next]
            self._next += 1

    def fill(self, most: int) -> bool:
        """Make up to `most` outcomes of items that the deadline kept from being finished ready, if any."""
        error = self._missing_error()
        for index in islice(self._missing, most):
            if self._ordered and index in self._ahead:
                self.ready.append(self._ahead.pop(index))
            else:
                self.ready.append(error if self._make is None else self._make(Item(index), None, error))
        return bool(self.ready)

    def take(self, most: int) -> list[Any]:
        """Return up to `most` outcomes that are ready."""
        ready = self.ready
        chunk = [ready.popleft() for _ in range(min(most, len(ready)))]
        if not self.ended.is_set():
            self._took(len(chunk))
        return chunk

    def _took(self, count: int) -> None:
        """Let the run go on for `count` outcomes that were taken."""
        assert self.scheduler is not None
        self.scheduler.delivered(count)

    async def wait(self) -> None:
        """Wait for an outcome, or the end."""
        self._more = Signal()
        await self._more.wait()

    async def stop(self) -> None:
        """End the run and return when nothing of it is running any more."""
        if self.ended.is_set():
            return
        self.loop.call(self.cancel)
        try:
            await self.ended.wait()  # the inputs may have to be cleaned up
        except BaseException:
            self.loop.call(self.scope.cancel)
            with CancelScope(shield=True):
                await self.ended.wait()
            raise

    def cancel(self) -> None:
        """End the run soon; on its loop's thread."""
        assert self.scheduler is not None
        self.scheduler.stop()

    def _notify(self) -> None:
        if self._more is not None:
            self._more.set()
            self._more = None

    async def host(self) -> None:
        """Be the run's task."""
        assert self.scheduler is not None
        try:
            with self.scope:
                await self.scheduler.run()
        except BaseException as error:  # noqa: BLE001  raised by the consumer's `anext`
            self._failure = error
        finally:
            # The slots that it gave back for its consumer, which may have gone.
            self.scheduler.offer()

    def end(self) -> None:
        """Record that the run's task has ended."""
        if self._expected is not None and self._is_filled():
            places = range(self._next, self._expected)
            ahead = () if self._ordered else frozenset(self._ahead)
            self._missing = (index for index in places if index not in ahead)
        self.ended.set()
        for ended in self.ended_for:
            ended()
        self._notify()

    def _is_filled(self) -> bool:
        """Whether items without an outcome have the run's end for an error."""
        return issubclass(type(self._failure), DeadlineExceededError)

    def _missing_error(self) -> Exception:
        return cast("Exception", self._failure)

    def raise_end(self) -> None:
        """Raise the error that ended the run, unless the items have it."""
        if self._failure is not None and not (self._expected is not None and self._is_filled()):
            raise self._failure
        raise StopAsyncIteration
