"""RunnableGenerator: generator functions over chunks."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, cast

import anyio
import pytest

from batchrt import RunConfig, RunnableGenerator, RunnableLambda, RunnablePassthrough, chain
from tests.runnables.helpers import everyway, raises_everyway
from tests.runtime.harness import Watch, all_slots_come_back, config, until

pytestmark = pytest.mark.anyio


def doubled(chunks: Iterator[int]) -> Iterator[list[int]]:
    for chunk in chunks:
        yield [chunk, chunk]


async def adoubled(chunks: AsyncIterator[int]) -> AsyncIterator[list[int]]:
    async for chunk in chunks:
        yield [chunk, chunk]


@pytest.mark.parametrize("function", [doubled, adoubled])
async def test_generator_yields_chunks_for_chunks(function: Any) -> None:
    """Without streaming the input is one chunk, and the output the sum."""
    runnable = RunnableGenerator[int, list[int]](function)
    assert [chunk async for chunk in runnable.atransform([1, 2])] == [[1, 1], [2, 2]]
    assert await everyway(runnable, 3) == [3, 3]
    assert repr(runnable) == f"RunnableGenerator({function.__name__})"


async def test_generator_functions_are_steps_as_they_are() -> None:
    """Behind `|`, before it, in dicts, in objects and partials."""

    class Both:
        async def __call__(self, chunks: AsyncIterator[int]) -> AsyncIterator[int]:
            async for chunk in chunks:
                yield chunk + 1

    def plus(more: int, chunks: Iterator[int]) -> Iterator[int]:
        for chunk in chunks:
            yield chunk + more

    plain = RunnablePassthrough[Any]()
    line: Any = plain | Both() | partial(plus, 5)
    assert [chunk async for chunk in line.atransform([1, 2])] == [7, 8]
    assert [chunk async for chunk in (doubled | plain).atransform([1, 2])] == [[1, 1], [2, 2]]
    assert await (plain | {"a": adoubled}).ainvoke(1) == {"a": [1, 1]}
    assert isinstance((plain | doubled).last, RunnableGenerator)


async def test_generator_without_a_chunk_returns_none() -> None:
    """And streams nothing."""

    async def nothing(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for chunk in chunks:
            if chunk is chunks:
                yield chunk

    assert await everyway(RunnableGenerator(nothing), 1) is None
    assert [chunk async for chunk in RunnableGenerator(nothing).astream(1)] == []


async def test_generator_takes_a_config_and_arguments() -> None:
    """A parameter `config` is given the run's; keyword arguments go to the function."""

    async def noted(chunks: AsyncIterator[str], config: RunConfig, end: str = "") -> AsyncIterator[str]:
        async for chunk in chunks:
            yield chunk + config["tags"][0] + end

    def snoted(chunks: Iterator[str], config: RunConfig, end: str = "") -> Iterator[str]:
        for chunk in chunks:
            yield chunk + config["tags"][0] + end

    for function in (noted, snoted):
        runnable = RunnableGenerator[str, str](function)
        assert await everyway(runnable, "a", config(tags=["t"]), end="!") == "at!"
        with pytest.raises(TypeError, match="takes no keyword argument 'other'"):
            await runnable.ainvoke("a", other=1)


def test_generator_takes_generator_functions_only() -> None:
    """The error says what takes others."""
    for wrong in (len, lambda chunks: chunks, None, 3):
        with pytest.raises(TypeError, match="a generator function is needed"):
            RunnableGenerator(cast("Any", wrong))
    with pytest.raises(TypeError, match="atransform must be an async generator"):
        RunnableGenerator(doubled, cast("Any", doubled))


async def test_generator_with_two_forms_uses_the_async_one() -> None:
    """As runs are async."""

    def never(chunks: Iterator[int]) -> Iterator[int]:
        yield from chunks
        pytest.fail("the sync form runs")

    async def form(chunks: AsyncIterator[int]) -> AsyncIterator[int]:
        async for chunk in chunks:
            yield chunk

    runnable = RunnableGenerator(never, form, name="two forms")
    assert await everyway(runnable, 1) == 1
    assert runnable.get_name() == "two forms"


async def test_generator_errors_are_raised_as_themselves() -> None:
    """By each method; `StopIteration` of a function becomes Python's `RuntimeError`."""

    async def failing(chunks: AsyncIterator[int]) -> AsyncIterator[int]:
        async for chunk in chunks:
            yield chunk
        raise LookupError("at the end")

    def stopping(chunks: Iterator[int]) -> Iterator[int]:
        yield from chunks
        yield next(iter(()))

    await raises_everyway(RunnableGenerator(failing), 1, LookupError, "at the end")
    await raises_everyway(RunnableGenerator(stopping), 1, RuntimeError)


async def test_generator_may_handle_the_error_of_what_is_before_it() -> None:
    """It is raised where the function asks for the chunk, in a thread too."""

    @chain
    async def failing(_: Any) -> AsyncIterator[str]:
        yield "a"
        raise LookupError

    async def handling(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            async for chunk in chunks:
                yield chunk
        except LookupError:
            yield "handled"

    def shandling(chunks: Iterator[str]) -> Iterator[str]:
        try:
            yield from chunks
        except LookupError:
            yield "handled"
        assert list(chunks) == []

    for function in (handling, shandling):
        line = failing | RunnableGenerator[str, str](function)
        assert [chunk async for chunk in line.astream(0)] == ["a", "handled"]


# Threads


async def test_generator_that_is_sync_runs_in_worker_threads_under_the_cap() -> None:
    """One step at a time; between its steps others have the slot."""
    watch = Watch()
    here = threading.get_ident()

    def leaf(chunks: Iterator[int]) -> Iterator[int]:
        for chunk in chunks:
            for _ in range(3):
                with watch:
                    assert threading.get_ident() != here
                    pairs = chunk
                yield pairs

    with all_slots_come_back():
        found = [
            pair async for pair in RunnableGenerator(leaf).astream_batch(range(8), config(max_concurrency=2))
        ]
    assert sorted(found) == sorted((n, n) for n in range(8) for _ in range(3))
    assert watch.entered == 24
    assert watch.peak <= 2


async def test_generator_that_is_sync_waits_for_chunks_without_a_slot() -> None:
    """At cap 1 a chain of three, with a nested call in each, does not deadlock, nor with one thread."""

    @chain
    async def inner(value: int) -> int:
        return value + 1

    def leaf(chunks: Iterator[int]) -> Iterator[int]:
        for chunk in chunks:
            yield inner.invoke(chunk)

    line = RunnableGenerator(leaf) | leaf | leaf
    with all_slots_come_back():
        assert [chunk async for chunk in line.atransform([1, 2], config(max_concurrency=1))] == [4, 5]
        assert await line.abatch(range(100), config(max_concurrency=1)) == [n + 3 for n in range(100)]


async def test_generator_that_is_sync_is_closed_in_a_thread_with_its_stream() -> None:
    """Between two chunks, and while it waits for one; what is before it is closed behind it."""
    notes: list[str] = []

    async def source() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
            await anyio.sleep_forever()
        finally:
            notes.append("source")

    def leaf(chunks: Iterator[int]) -> Iterator[int]:
        try:
            yield from chunks
        finally:
            notes.append(
                "leaf in a thread" if threading.current_thread() is not threading.main_thread() else "leaf"
            )

    for taken in (1, 2):
        notes.clear()
        with all_slots_come_back():
            async with RunnableGenerator(leaf).atransform(source()) as chunks:
                for _ in range(taken):
                    await anext(chunks)
        assert notes == ["leaf in a thread", "source"]


async def test_generator_that_is_sync_finishes_its_step_when_it_is_cancelled() -> None:
    """A thread cannot be interrupted: the stream ends when the function does, and no thread outlives it."""
    working, go_on = threading.Event(), threading.Event()
    notes: list[str] = []

    def leaf(_: Any) -> Iterator[int]:
        try:
            working.set()
            go_on.wait(20)
            yield 1
        finally:
            notes.append("closed")

    async with anyio.create_task_group() as group:
        scope = anyio.CancelScope()

        async def consume() -> None:
            with scope:
                await anext(RunnableLambda(leaf).astream(0))
            notes.append("over")

        group.start_soon(consume)
        await until(working.is_set)
        scope.cancel()
        await anyio.lowlevel.checkpoint()
        assert notes == []
        go_on.set()
    assert notes == ["closed", "over"]
