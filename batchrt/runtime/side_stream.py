"""A part of a stream that runs in tasks of its own: branches whose chunks are merged as they come."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Self, TypeAlias

import anyio
from anyio import CancelScope

from batchrt.errors import StrayCancelledError
from batchrt.runtime.chunk_buffer import BOUND, ChunkBuffer, Pauses, is_ahead
from batchrt.runtime.context import drive
from batchrt.runtime.event_loop import Signal
from batchrt.runtime.fork import Branch, fork
from batchrt.runtime.strand import Strand, current_strand, strand_context

__all__ = ["ChunkBranch", "Put", "SideStream", "closed", "pour"]

Put: TypeAlias = "Callable[[Any], Awaitable[None]]"
"""Hands a chunk over, and waits while the consumer is slow."""

ChunkBranch: TypeAlias = "Callable[[Strand, Put], Coroutine[Any, Any, None]]"
"""The work of one branch: called with the strand that it runs on and the way for its chunks."""


async def pour(chunks: AsyncIterator[Any], put: Put) -> None:
    """Hand over all of `chunks`, and close them."""
    try:
        async for chunk in chunks:
            await put(chunk)
    finally:
        await closed(chunks)


async def closed(chunks: AsyncIterator[Any]) -> None:
    """Close an iterator that can be closed."""
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


class SideStream(AsyncIterator[Any]):
    """Iterate over the chunks of `branches`, which run at the same time in helper tasks of the run.

    The branches begin with the first pull, on strands of their own, as those of a `fork`: the first error
    cancels the others, and is raised once they have ended and the chunks before it were taken. An async
    generator cannot hold a task group open across its yields, so the tasks are the run's.
    """

    __slots__ = ("_branches", "_buffer", "_done", "_ended", "_pauses", "_resume_at", "_scope", "_strand")

    def __init__(self, branches: Sequence[ChunkBranch]) -> None:
        self._branches = branches
        self._pauses = Pauses()
        self._buffer = ChunkBuffer(self._took)
        self._scope = CancelScope()
        self._strand: Strand | None = None
        self._resume_at = 0
        self._ended = False
        self._done: Signal | None = None

    def __aiter__(self) -> Self:
        return self

    def start(self) -> None:
        """Begin, as part of the caller's strand."""
        strand = current_strand()
        assert strand is not None
        assert strand.run.task_pool is not None
        self._strand = strand.branch(self._scope)
        strand.run.task_pool.dispatch(_SideTask(self, self._strand))

    async def __anext__(self) -> Any:
        """Return the next chunk of any branch."""
        if self._strand is None:
            self.start()
        return await self._buffer.__anext__()

    async def put(self, chunk: Any) -> None:
        """Take a chunk of the branch that the caller is."""
        strand = current_strand()
        assert strand is not None
        buffer = self._buffer
        asked = buffer.asked
        buffer.push(chunk)
        if len(buffer.ready) >= BOUND:
            self._resume_at = BOUND // 2
            await self._pauses.pause(strand, newcomers=True)
        elif is_ahead(strand, asked=asked, borrows=buffer.borrows):
            self._resume_at = 0
            await self._pauses.pause(strand, newcomers=False)

    def _took(self) -> None:
        if self._pauses and len(self._buffer.ready) <= self._resume_at:
            self._pauses.resume()

    def branches(self) -> list[Branch]:
        """Return the branches for a fork."""
        return [partial(_run_branch, branch, self.put) for branch in self._branches]

    @property
    def scope(self) -> CancelScope:
        """The scope around all branches."""
        return self._scope

    def end(self, error: BaseException | None) -> None:
        """Record that all branches have ended."""
        self._ended = True
        self._buffer.end(error)
        if self._done is not None:
            self._done.set()

    async def aclose(self) -> None:
        """Cancel the branches and return when all have ended."""
        if self._strand is None or self._ended:
            return
        self._scope.cancel()
        strand = current_strand()
        if strand is not None and strand.has_slot:
            strand.give()  # the branches may need it to end; nothing of this part goes on
        self._done = Signal()
        with CancelScope(shield=True):
            await self._done.wait()


async def _run_branch(branch: ChunkBranch, put: Put, strand: Strand) -> None:
    await branch(strand, put)


class _SideTask:
    """The task of a `SideStream`."""

    __slots__ = ("_context", "_strand", "_stream")

    def __init__(self, stream: SideStream, strand: Strand) -> None:
        self._stream = stream
        self._strand = strand
        self._context = strand_context(strand, copy_context())

    async def run(self) -> None:
        failure: BaseException | None = None
        try:
            with self._stream.scope:
                await drive(self._context, fork(self._strand, self._stream.branches()))
        except anyio.get_cancelled_exc_class() as error:
            failure = StrayCancelledError.of(error)
            if anyio.current_effective_deadline() == -math.inf:
                raise
        except BaseException as error:  # noqa: BLE001  raised by the consumer's `anext`
            failure = error
        finally:
            self._strand.close()
            self._stream.end(failure)

    def abandon(self, error: BaseException) -> None:
        self._strand.close()
        self._stream.end(StrayCancelledError.of(error))
