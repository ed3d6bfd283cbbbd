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
from batchrt.runtime.chunk_buffer import BOUND, ChunkBuffer, Pauses
from batchrt.runtime.context import drive
from batchrt.runtime.event_loop import Signal
from batchrt.runtime.fork import Branch, fork
from batchrt.runtime.lending import lending
from batchrt.runtime.strand import Strand, current_strand, strand_context

__all__ = ["ChunkBranch", "Closing", "Put", "SideStream", "closed", "pour"]

Put: TypeAlias = "Callable[[Any], Awaitable[None]]"
"""Hands a chunk over, and waits while the consumer is slow."""

ChunkBranch: TypeAlias = "Callable[[Strand, Put], Coroutine[Any, Any, None]]"
"""The work of one branch: called with the strand that it runs on and the way for its chunks."""


async def pour(chunks: AsyncIterator[Any], put: Put) -> None:
    """Hand over all of `chunks`, and close them."""
    async with Closing(chunks):
        async for chunk in chunks:
            await put(chunk)


async def closed(chunks: AsyncIterator[Any]) -> None:
    """Close an iterator that can be closed."""
    # Of the type, as Python looks up `__anext__`: a MagicMock has every attribute, and none to await.
    close = getattr(type(chunks), "aclose", None)
    if close is not None:
        await close(chunks)


class Closing:
    """Close an iterator that can be closed behind an `async with` block.

    Not by `contextmanager`, which sets the traceback of an error: a frozen exception refuses that.
    """

    __slots__ = ("_chunks",)

    def __init__(self, chunks: AsyncIterator[Any]) -> None:
        self._chunks = chunks

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        await closed(self._chunks)


class SideStream(AsyncIterator[Any]):
    """Iterate over the chunks of `branches`, which run at the same time in helper tasks of the run.

    Each branch has a credit of its own, so that a quick one does not crowd out the others.
    The branches begin with the first pull, on strands of their own, as those of a `fork`: the first error
    cancels the others, and is raised once they have ended and the chunks before it were taken. An async
    generator cannot hold a task group open across its yields, so the tasks are the run's.
    """

    __slots__ = ("_branches", "_buffer", "_done", "_ended", "_scope", "_strand")

    def __init__(self, branches: Sequence[ChunkBranch]) -> None:
        self._branches = branches
        self._buffer = ChunkBuffer()
        self._scope = CancelScope()
        self._strand: Strand | None = None
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
        credit, chunk = await self._buffer.__anext__()
        credit.took()
        return chunk

    def branches(self) -> list[Branch]:
        """Return the branches for a fork."""
        return [partial(_run_branch, branch, _Credit(self._buffer).put) for branch in self._branches]

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
        self._done = Signal()
        # The branches may need the slot to end; a step behind them may need it then.
        async with lending():
            with CancelScope(shield=True):
                await self._done.wait()


class _Credit:
    """Count the chunks of one branch that the consumer has not taken."""

    __slots__ = ("_buffer", "_count", "_pauses")

    def __init__(self, buffer: ChunkBuffer) -> None:
        self._buffer = buffer
        self._count = 0
        self._pauses = Pauses()

    async def put(self, chunk: Any) -> None:
        """Hand a chunk over, and wait while there are too many."""
        self._count += 1
        self._buffer.push((self, chunk))
        if self._count >= BOUND:
            strand = current_strand()
            assert strand is not None
            await self._pauses.pause(strand, newcomers=False)

    def took(self) -> None:
        """Record that the consumer took one."""
        self._count -= 1
        if self._pauses and self._count <= BOUND // 2:
            self._pauses.resume()


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
