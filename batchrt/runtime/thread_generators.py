"""Sync generators in worker threads: one step at a time, each from one chunk to the next."""

from __future__ import annotations

import concurrent.futures
import inspect
import queue
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextvars import copy_context
from typing import Any, Final, Self, cast

import anyio
from anyio import CancelScope

from batchrt.runtime.context import drive
from batchrt.runtime.event_loop import LoopHandle, Signal
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.strand import Strand
from batchrt.runtime.threads import call_in_thread

__all__ = ["generated", "transformed_in_thread"]

_END: Final = object()
_CUT: Final = object()


async def generated(iterator: Iterator[Any], strand: Strand) -> AsyncIterator[Any]:
    """Yield the chunks of a sync iterator; every step of it, and its end, has a worker thread and a slot."""
    try:
        while True:
            await strand.take()
            found, chunk = await call_in_thread(_next, iterator, strand)
            if not found:
                return
            yield chunk
    finally:
        await _close(iterator, strand)


async def transformed_in_thread(
    function: Callable[[Iterator[Any]], Iterator[Any]], chunks: AsyncIterator[Any], strand: Strand
) -> AsyncIterator[Any]:
    """Yield the chunks of `function`, called with an iterator over `chunks`, and close these.

    While the function asks for a chunk its thread waits, and the chunk is pulled in the task of the caller,
    on the same strand. So the slot is passed between the function and what is before it.
    """
    feed = _Feed(chunks, strand)
    iterator = function(feed)
    try:
        while True:
            await strand.take()
            found, chunk = await feed.step(iterator)
            if not found:
                return
            yield chunk
    finally:
        feed.cut()
        async with Closing(chunks):
            await _close(iterator, strand)


def _next(iterator: Iterator[Any]) -> tuple[bool, Any]:
    try:
        return True, next(iterator)
    except StopIteration:  # which cannot travel through a coroutine
        return False, None


async def _close(iterator: Iterator[Any], strand: Strand) -> None:
    if not inspect.isgenerator(iterator) or inspect.getgeneratorstate(iterator) == inspect.GEN_CLOSED:
        return
    if inspect.getgeneratorstate(iterator) == inspect.GEN_CREATED:
        iterator.close()
        return
    with CancelScope(shield=True):
        await call_in_thread(_close_generator, iterator, strand)


def _close_generator(generator: Generator[Any, Any, Any]) -> None:
    generator.close()


class _Feed(Iterator[Any]):
    """Iterate in a worker thread over chunks that are pulled on the event loop."""

    def __init__(self, chunks: AsyncIterator[Any], strand: Strand) -> None:
        self._chunks = chunks
        self._strand = strand
        self._loop = LoopHandle.current()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._signal = Signal()
        self._asked = False
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """Return the next chunk; in the thread."""
        if self._over:
            raise StopIteration
        self._loop.call(self._ask)
        answer = self._answers.get()
        if answer is _END:
            self._over = True
            raise StopIteration
        if answer is _CUT:
            raise concurrent.futures.CancelledError("the run was cancelled")
        if isinstance(answer, _Failed):
            self._over = True
            raise answer.error
        return answer

    def _ask(self) -> None:
        self._asked = True
        self._signal.set()

    def cut(self) -> None:
        """Have no more chunks, in the cleanup of the function either."""
        self._over = True

    def wake(self) -> None:
        """Let `step` look at how its thread stands."""
        self._signal.set()

    async def step(self, iterator: Iterator[Any]) -> tuple[bool, Any]:
        """Take the function's next step, and pull the chunks that it asks for."""
        pool = self._strand.run.task_pool
        assert pool is not None
        step = _Step(self, iterator, self._strand)
        self._signal = Signal()
        pool.dispatch(step)
        while True:
            try:
                await self._signal.wait()
                self._signal = Signal()
                if step.ended:
                    return step.result()
                answer = await self._pull()
                await self._strand.take()  # what is before the function may have given the slot up
            except BaseException:
                await self._cut_off(step)
                raise
            self._asked = False
            self._answers.put(answer)

    async def _pull(self) -> Any:
        threads = self._strand.run.threads
        if threads is not None:
            threads.total_tokens += 1  # one waits, so another may start
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            return _END
        except Exception as error:  # noqa: BLE001  raised in the thread
            return _Failed(error)
        finally:
            if threads is not None:
                threads.total_tokens -= 1

    async def _cut_off(self, step: _Step) -> None:
        """Wait for the end of a step whose caller was cancelled."""
        self._strand.cancel_nested()
        with CancelScope(shield=True):
            while not step.ended:
                self._over = True
                if self._asked:
                    self._asked = False
                    self._answers.put(_CUT)
                self._signal = Signal()
                await self._signal.wait()


class _Failed:
    """An error in place of a chunk."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Step:
    """One step of a sync function, in a helper task that waits for its thread."""

    def __init__(self, feed: _Feed, iterator: Iterator[Any], strand: Strand) -> None:
        self._feed = feed
        self._iterator = iterator
        self._strand = strand
        self._context = copy_context()
        self._result: tuple[bool, Any] | None = None
        self._error: BaseException | None = None
        self.ended = False

    async def run(self) -> None:
        try:
            self._result = await drive(self._context, call_in_thread(_next, self._iterator, self._strand))
        except anyio.get_cancelled_exc_class() as error:
            self._error = error
            raise
        except BaseException as error:  # noqa: BLE001  raised by `result`
            self._error = error
        finally:
            self._end()

    def abandon(self, error: BaseException) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._feed.wake()

    def result(self) -> tuple[bool, Any]:
        """Return whether there was a chunk, and the chunk; or raise the function's error."""
        if self._error is not None:
            raise self._error
        return cast("tuple[bool, Any]", self._result)
