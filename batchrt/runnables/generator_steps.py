"""Generator functions as steps: async ones on the event loop, sync ones in worker threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias

from batchrt.runnables.streams import Once
from batchrt.runtime.side_stream import closed
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
    outputs = async_produce(function, _Input(chunks), strand)
    try:
        async for chunk in outputs:
            yield chunk
    finally:
        try:
            await closed(outputs)
        finally:
            await closed(chunks)


async def async_produce(function: Bound, value: Any, strand: Strand) -> AsyncIterator[Any]:
    """Yield the chunks of an async generator function of one input."""
    await strand.take()
    outputs = function(value, strand)
    try:
        async for chunk in outputs:
            yield chunk
    finally:
        await closed(outputs)


class _Input(AsyncIterator[Any]):
    """The chunks as the function sees them: it cannot close them before it has ended."""

    def __init__(self, chunks: AsyncIterator[Any]) -> None:
        self._chunks = chunks

    def __anext__(self) -> Any:
        """Return the next chunk."""
        return self._chunks.__anext__()


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
