"""Outputs handed over in chunks while they are made: of one input, or of many."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from dataclasses import replace
from typing import Any, Generic, TypeAlias, TypeVar

from batchrt.config import RunConfig
from batchrt.runtime.batch import Job, carry
from batchrt.runtime.chunk_buffer import BOUND, Pauses
from batchrt.runtime.item import Item
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.slots import Slots
from batchrt.runtime.step import Produce, Step
from batchrt.runtime.strand import Strand, current_strand
from batchrt.runtime.stream import Delivery, State

__all__ = ["ChunkStream", "ItemChunkStream", "Open"]

T = TypeVar("T")

Open: TypeAlias = "Callable[[Strand], AsyncIterator[Any]]"
"""Gives the chunks of an output, to be pulled on a strand."""


class ChunkStream(Delivery[T], Generic[T]):
    """Iterate over the chunks of one output; see `Runnable.astream`.

    The stream is a task of its own, which starts with the first `anext` and runs at most 16 chunks ahead of
    its consumer. So it may be used under any cancel scope and from any task of the loop. It ends when the
    output does, when the consumer is cancelled while it waits, or with `aclose`, which cancels all of its
    steps and returns when nothing of it is running any more. Leaving an `async for` early closes nothing
    by itself, in Python: use `async with`, `contextlib.aclosing`, or drop the last reference, which cancels
    the stream without waiting for its end.
    """

    def __init__(self, opened: Open, config: RunConfig) -> None:
        super().__init__()
        self._opened = opened
        self._config = config

    def _start(self) -> State:
        state = _OutputState(self._opened, self._config)
        state.task = state.loop.start(state.host, copy_context(), "batchrt chunks", state.end)
        return state


class _ChunkState(State):
    """The state that the producers of chunks and their consumer share.

    Attributes:
        bound: chunks at which producers wait for the consumer.
    """

    def __init__(self, *, bound: int, errors: bool, expected: int | None) -> None:
        super().__init__(ordered=False, lead=bound, errors=errors, expected=expected, make=_indexed)
        self.bound: int = bound
        self._pauses = Pauses()
        self._resume_at = 0
        # A leaf that consumes a stream has lent its slot for it, and takes it back before it goes on.
        self._lends = current_strand() is not None

    async def hand_over(self, chunk: Any, strand: Strand) -> None:
        """Give a chunk to the consumer, and wait while that is slow; see `chunk_buffer.py`."""
        self.ready.append(chunk)
        self._notify()
        if len(self.ready) >= self.bound:
            self._resume_at = self.bound // 2
            await self._pauses.pause(strand, newcomers=True)
        elif self._lends and strand.has_slot and strand.slots.free <= 0:
            self._resume_at = 0
            await self._pauses.pause(strand, newcomers=False)

    async def pour(self, chunks: AsyncIterator[Any], strand: Strand, index: int | None = None) -> None:
        """Hand over all of `chunks`, with the index of their item if there are many, and close them."""
        async with Closing(chunks):
            async for chunk in chunks:
                await self.hand_over(chunk if index is None else (index, chunk), strand)

    def _took(self, count: int) -> None:  # noqa: ARG002  chunks are no items
        if self._pauses and len(self.ready) <= self._resume_at:
            self._pauses.resume()


class _OutputState(_ChunkState):
    """The state of the stream of one output."""

    def __init__(self, opened: Open, config: RunConfig) -> None:
        super().__init__(bound=BOUND, errors=True, expected=None)
        self._opened = opened
        self._config = config
        self._slots: Slots | None = None

    async def host(self) -> None:
        """Be the stream's task."""
        try:
            with self.scope:
                await carry(Step(self._run), None, self._config, pooled=True, scopes=(self.scope,))
        except BaseException as error:  # noqa: BLE001  raised by the consumer's `anext`
            self._failure = error
        finally:
            if self._slots is not None and self._lends:
                self._slots.offer()  # what was given back for the consumer, which may have gone

    async def _run(self, _: Any, strand: Strand) -> None:
        self._slots = strand.slots
        await self.pour(self._opened(strand), strand)

    def cancel(self) -> None:
        """End the stream soon; on its loop's thread."""
        self.scope.cancel()


class ItemChunkStream(Delivery[tuple[int, T]], Generic[T]):
    """Iterate over `(index, chunk)` of the outputs of many inputs; see `Runnable.astream_batch`.

    What `ChunkStream` says about its task and its end is true for this as well.
    """

    def __init__(self, job: Job, produce: Produce, *, return_exceptions: bool) -> None:
        super().__init__()
        self._job = job
        self._produce = produce
        self._return_exceptions = return_exceptions

    def _start(self) -> State:
        job, errors = self._job, self._return_exceptions
        bounded = errors and job.config.get("deadline") is not None
        state = _ItemsState(
            self._produce,
            bound=max(BOUND, job.lead),
            errors=errors,
            expected=job.expected if bounded else None,
        )
        job = replace(job, step=job.step._replace(call=state.carry, inline=False, bulk=None))
        state.scheduler = job.open(state.put, fail_fast=not errors, room=state.room)
        state.task = state.loop.start(state.host, copy_context(), "batchrt chunks", state.end)
        return state


class _ItemsState(_ChunkState):
    """The state of the stream of many outputs."""

    def __init__(self, produce: Produce, *, bound: int, errors: bool, expected: int | None) -> None:
        super().__init__(bound=bound, errors=errors, expected=expected)
        self._produce = produce

    async def carry(self, value: Any, strand: Strand) -> None:
        """Carry one item through."""
        await self.pour(self._produce(value, strand), strand, strand.item.index)

    def put(self, item: Item, output: Any, error: Exception | None) -> bool:  # noqa: ARG002  its chunks are out
        """Take the end of an item."""
        if error is not None and self._errors:
            self.ready.append((item.index, error))
            self._notify()
        if self._expected is not None:
            self._pass(item.index)
        return True

    def _took(self, count: int) -> None:
        super()._took(count)
        assert self.scheduler is not None
        self.scheduler.delivered(0)


def _indexed(item: Item, _: Any, error: Exception | None) -> tuple[int, Exception | None]:
    return item.index, error
