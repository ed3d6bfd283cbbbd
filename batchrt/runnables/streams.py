"""Streams through steps: the chunks of a step's output, for a complete input or for chunks of one."""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing
from functools import partial
from typing import Any, Self

from batchrt.config import RunConfig
from batchrt.runnables.chunk_sums import total_of
from batchrt.runtime.chunk_stream import Open
from batchrt.runtime.side_stream import Closing, closed
from batchrt.runtime.step import Produce, Step, Transform
from batchrt.runtime.strand import Strand, current_strand

__all__ = [
    "LateChunks",
    "Once",
    "begun",
    "chunkwise",
    "closing_input",
    "configured",
    "flow",
    "input_chunks",
    "produced",
    "total_call",
    "transformed",
]


def produced(step: Step, value: Any, strand: Strand) -> AsyncIterator[Any]:
    """Return the chunks of a step's output for a complete input."""
    if step.produce is not None:
        return step.produce(value, strand)
    if step.transform is not None:
        return step.transform(Once(value), strand)
    return _single(step, value, strand)


def transformed(step: Step, chunks: AsyncIterator[Any], strand: Strand) -> AsyncIterator[Any]:
    """Return the chunks of a step's output for chunks of the input, which are closed with them."""
    if step.transform is not None:
        return step.transform(chunks, strand)
    return _summed(step, chunks, strand)


class Once(AsyncIterator[Any]):
    """Iterate over one chunk; there is nothing to be closed."""

    __slots__ = ("_chunks",)

    def __init__(self, chunk: Any) -> None:
        self._chunks = [chunk]

    async def __anext__(self) -> Any:
        """Return it, once."""
        if not self._chunks:
            raise StopAsyncIteration
        return self._chunks.pop()


async def _single(step: Step, value: Any, strand: Strand) -> AsyncIterator[Any]:
    yield step.call(value, strand) if step.inline else await step.call(value, strand)


async def _summed(step: Step, chunks: AsyncIterator[Any], strand: Strand) -> AsyncIterator[Any]:
    value = await total_of(chunks)
    outputs = produced(step, value, strand)
    async with Closing(outputs):
        async for chunk in outputs:
            yield chunk


def total_call(produce: Produce) -> Callable[[Any, Strand], Any]:
    """Return the call of a step that can do nothing but stream: the sum of its chunks."""

    async def call(value: Any, strand: Strand) -> Any:
        return await total_of(produce(value, strand))

    return call


def chunkwise(function: Callable[[Any], Any]) -> Transform:
    """Return the transform of a step whose output for chunks is that for each chunk; `None` is left out.

    No chunk at all is the input `None`, as for `ainvoke`.
    """

    async def transform(chunks: AsyncIterator[Any], _strand: Strand) -> AsyncIterator[Any]:
        some = False
        async with Closing(chunks):
            async for chunk in chunks:
                some = True
                output = function(chunk)
                if output is not None:
                    yield output
            if not some:
                yield function(None)

    return transform


class LateChunks(AsyncIterator[Any]):
    """Open chunks at the first pull, on the strand of the task that pulls them.

    The step behind may pull its input from a task of its own (the branches of a parallel do), whose strand
    is another one. A slot must be the one of the strand that the leaf runs on.
    """

    __slots__ = ("_chunks", "_open")

    def __init__(self, opened: Open) -> None:
        self._open = opened
        self._chunks: AsyncIterator[Any] | None = None

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Any:
        """Return the next chunk."""
        if self._chunks is None:
            strand = current_strand()
            assert strand is not None
            self._chunks = self._open(strand)
        return self._chunks.__anext__()

    async def aclose(self) -> None:
        """Close the chunks, if they were opened."""
        if self._chunks is not None:
            await closed(self._chunks)


def flow(opened: Open, steps: Sequence[Step], strand: Strand) -> AsyncIterator[Any]:
    """Return the chunks that come out of `steps`, one behind the other, for those that `opened` gives."""
    if not steps:
        return opened(strand)
    for step in steps[:-1]:
        opened = partial(_through, step, LateChunks(opened))
    return transformed(steps[-1], LateChunks(opened), strand)


def _through(step: Step, chunks: AsyncIterator[Any], strand: Strand) -> AsyncIterator[Any]:
    return transformed(step, chunks, strand)


async def begun(chunks: AsyncIterator[Any]) -> Sequence[Any]:
    """Return the first chunk, in a list, or an empty list; after an error the chunks are closed."""
    try:
        return [await anext(chunks)]
    except StopAsyncIteration:
        return []
    except BaseException:
        await closed(chunks)
        raise


def configured(merge: Callable[[RunConfig], RunConfig], transform: Transform) -> Transform:
    """Return `transform` with `merge(outer)` as the strand's configuration while it is at work."""

    async def configured_transform(chunks: AsyncIterator[Any], strand: Strand) -> AsyncIterator[Any]:
        outer = strand.config
        inner = merge(outer)
        outputs: AsyncIterator[Any] | None = None
        strand.config = inner
        try:
            outputs = transform(_Outside(chunks, outer), strand)
            async for chunk in outputs:
                strand.config = outer
                yield chunk
                strand.config = inner
        finally:
            strand.config = outer
            await closed(chunks if outputs is None else outputs)

    return configured_transform


class _Outside(AsyncIterator[Any]):
    """Pull chunks under the configuration outside of the step that they are for."""

    def __init__(self, chunks: AsyncIterator[Any], config: RunConfig) -> None:
        self._chunks = chunks
        self._config = config

    async def __anext__(self) -> Any:
        """Return the next chunk."""
        strand = current_strand()
        assert strand is not None
        inner, strand.config = strand.config, self._config
        try:
            return await anext(self._chunks)
        finally:
            strand.config = inner

    async def aclose(self) -> None:
        """Close the chunks."""
        await closed(self._chunks)


def input_chunks(inputs: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[Any]:
    """Return the chunks of an input that a caller gives.

    Raises:
        TypeError: it cannot be iterated over, or is the input itself and not an iterator of chunks.
    """
    if isinstance(inputs, AsyncIterable):
        return _Lent(aiter(inputs))
    if isinstance(inputs, str | bytes | Mapping) or not isinstance(inputs, Iterable):
        raise TypeError(
            f"the input must be an iterator of chunks, not {type(inputs).__name__}; "
            "for a complete input there are stream and astream"
        )
    return _plain_chunks(iter(inputs))


async def _plain_chunks(inputs: Iterator[Any]) -> AsyncIterator[Any]:
    try:
        for chunk in inputs:
            yield chunk
    finally:
        close = getattr(inputs, "close", None)
        if close is not None:
            close()


class _Lent(AsyncIterator[Any]):
    """Lend the slot of the strand that waits for chunks of the caller's."""

    def __init__(self, chunks: AsyncIterator[Any]) -> None:
        self._chunks = chunks

    async def __anext__(self) -> Any:
        """Return the next chunk."""
        strand = current_strand()
        assert strand is not None
        if not strand.has_slot:
            return await anext(self._chunks)
        async with strand.lending(newcomers=True):
            return await anext(self._chunks)

    async def aclose(self) -> None:
        """Close the chunks, if they can be."""
        await closed(self._chunks)


def closing_input(outputs: Generator[Any, None, None], inputs: object) -> Generator[Any, None, None]:
    """Yield `outputs`, and close `inputs` behind them, if that is a generator."""
    try:
        with closing(outputs):
            yield from outputs
    finally:
        close = getattr(inputs, "close", None)
        if close is not None and isinstance(inputs, Iterator):
            close()
