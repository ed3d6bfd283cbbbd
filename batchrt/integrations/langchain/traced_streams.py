"""Streams of chunks through steps that LangChain's callbacks see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Self, TypeAlias

import anyio

from batchrt.config import RunConfig
from batchrt.runnables.chunk_sums import ChunkSum
from batchrt.runnables.streams import Once, configured, produced, transformed
from batchrt.runtime.side_stream import Closing, closed
from batchrt.runtime.step import Produce, Step, Transform
from batchrt.runtime.strand import Strand

__all__ = ["LAST_WORD", "Begin", "mapped_produce", "mapped_transform", "traced_produce", "traced_transform"]

Begin: TypeAlias = "Callable[[Any, Strand], Any]"
"""Awaited with a step's input: gives the configuration inside of the step, and its run or `None`."""

LAST_WORD = 5.0
"""Seconds for handlers that are told of an item's cancellation: they must not hold the run up."""


def traced_produce(step: Step, begin: Begin) -> Produce:
    """Return the `produce` of `step` inside of a run; see `Step`."""

    async def produce(value: Any, strand: Strand) -> AsyncIterator[Any]:
        inside, run = await begin(value, strand)
        opened = configured(_always(inside), lambda _chunks, strand: produced(step, value, strand))
        outputs = _told(run, opened(Once(None), strand))
        async with Closing(outputs):
            async for chunk in outputs:
                yield chunk

    return produce


def traced_transform(step: Step, begin: Begin) -> Transform | None:
    """Return the `transform` of `step` inside of a run, if it has one; see `Step`."""
    if step.transform is None:
        return None

    async def transform(chunks: AsyncIterator[Any], strand: Strand) -> AsyncIterator[Any]:
        inputs = _Recorded(chunks)
        try:
            inside, run = await begin({"input": ""}, strand)  # the input is told at the end, as in LangChain
        except BaseException:
            await closed(chunks)
            raise
        opened = configured(_always(inside), lambda chunks, strand: transformed(step, chunks, strand))
        outputs = _told(run, opened(inputs if run is not None else chunks, strand), inputs)
        async with Closing(outputs):
            async for chunk in outputs:
                yield chunk

    return transform


def mapped_produce(step: Step, function: Callable[[Any], Any]) -> Produce:
    """Return the `produce` of `step` with `function` applied to each chunk."""

    async def produce(value: Any, strand: Strand) -> AsyncIterator[Any]:
        outputs = produced(step, value, strand)
        async with Closing(outputs):
            async for chunk in outputs:
                yield function(chunk)

    return produce


def mapped_transform(step: Step, function: Callable[[Any], Any]) -> Transform | None:
    """Return the `transform` of `step`, if it has one, with `function` applied to each chunk."""
    if step.transform is None:
        return None

    async def transform(chunks: AsyncIterator[Any], strand: Strand) -> AsyncIterator[Any]:
        outputs = transformed(step, chunks, strand)
        async with Closing(outputs):
            async for chunk in outputs:
                yield function(chunk)

    return transform


def _always(config: RunConfig) -> Callable[[RunConfig], RunConfig]:
    return lambda _outer: config


async def _told(run: Any, chunks: AsyncIterator[Any], inputs: _Recorded | None = None) -> AsyncIterator[Any]:
    """Yield `chunks`, close them, and tell the run of their sum or of what ended them."""
    total = ChunkSum()
    try:
        async with Closing(chunks):
            async for chunk in chunks:
                if run is not None:
                    total.add(chunk)
                yield chunk
    except BaseException as error:
        if run is not None:
            with anyio.move_on_after(LAST_WORD, shield=True):
                await run.on_chain_error(error)
        raise
    if run is not None:
        given = {} if inputs is None else {"inputs": {"input": inputs.total.value}}
        await run.on_chain_end(total.value, **given)


class _Recorded(AsyncIterator[Any]):
    """Pass chunks on, and add them up for the run's record."""

    def __init__(self, chunks: AsyncIterator[Any]) -> None:
        self.total = ChunkSum()
        self._chunks = chunks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        chunk = await anext(self._chunks)
        self.total.add(chunk)
        return chunk

    async def aclose(self) -> None:
        """Close the chunks."""
        await closed(self._chunks)
