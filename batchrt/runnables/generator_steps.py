"""Generator functions as steps: async ones on the event loop, sync ones in worker threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias

from batchrt.runnables.streams import Once
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.strand import Strand
from batchrt.runtime.thread_generators import generated, transformed_in_thread

__all__ = [
    "Bound",
    "async_produce",
    "async_transform",
    "async_whole",
    "sync_produce",
    "sync_transform",
    "sync_whole",
]

Bound: TypeAlias = "Callable[[Any, Strand], Any]"
"""A generator function with its other arguments; takes the input, or an iterator over its chunks."""


async def async_transform(function: Bound, chunks: AsyncIterator[Any], strand: Strand) -> AsyncIterator[Any]:
    """Yield the chunks of an async generator function of chunks, which are closed behind it."""
    outputs = async_produce(function, _Input(chunks, strand), strand)
    async with Closing(chunks), Closing(outputs):
        async for chunk in outputs:
            yield chunk


async def async_produce(function: Bound, value: Any, strand: Strand) -> AsyncIterator[Any]:
    """Yield the chunks of an async generator function of one input."""
    await strand.take()
    outputs = function(value, strand)
    async with Closing(outputs):
        async for chunk in outputs:
            yield chunk


class _Input(AsyncIterator[Any]):
    """The chunks as the function sees them: it cannot close them before it has ended.

    What is before the function may have given up the slot that they share, as a list call does. The function
    goes on with one.
    """

    def __init__(self, chunks: AsyncIterator[Any], strand: Strand) -> None:
        self._chunks = chunks
        self._strand = strand

    async def __anext__(self) -> Any:
        """Return the next chunk."""
        try:
            chunk = await self._chunks.__anext__()
        except Exception:
            await self._strand.take()
            raise
        if not self._strand.has_slot:
            await self._strand.take()
        return chunk


def sync_transform(function: Bound, chunks: AsyncIterator[Any], strand: Strand) -> AsyncIterator[Any]:
    """Do `async_transform` for a sync function."""
    return transformed_in_thread(lambda feed: _delegated(function, feed, strand), chunks, strand)


def sync_produce(function: Bound, value: Any, strand: Strand) -> AsyncIterator[Any]:
    """Yield the chunks of a sync generator function of one input."""
    return generated(_delegated(function, value, strand), strand)


def sync_whole(function: Bound, value: Any, strand: Strand) -> AsyncIterator[Any]:
    """Do `sync_transform` for an input that is complete."""
    return sync_produce(function, iter((value,)), strand)


def async_whole(function: Bound, value: Any, strand: Strand) -> AsyncIterator[Any]:
    """Do `async_transform` for an input that is complete."""
    return async_produce(function, Once(value), strand)


def _delegated(function: Bound, value: Any, strand: Strand) -> Iterator[Any]:
    # The function may do its work before it returns an iterator: in the thread, too.
    yield from function(value, strand)
