"""Async inputs: pulled by one task, one at a time, when asked."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from batchrt import DeadlineExceededError, RunnableLambda
from batchrt.runtime.async_input import AsyncInput
from tests.runtime.harness import Boom, config, on_trio, pause, tasks, until

pytestmark = pytest.mark.anyio


async def same(value: Any) -> Any:
    await pause(1)
    return value


async def test_async_input_nothing_is_pulled_before_it_is_asked_for() -> None:
    """Nothing is pulled before it is asked for."""
    pulled: list[int] = []

    async def source() -> AsyncIterator[int]:
        for value in range(3):
            pulled.append(value)
            yield value

    feeder = AsyncInput(source())
    async with anyio.create_task_group() as group:
        group.start_soon(feeder.run)
        await pause()
        assert pulled == []
        assert await feeder.get() == 0
        await pause()
        assert pulled == [0]
        assert [await feeder.get(), await feeder.get()] == [1, 2]
        with pytest.raises(StopAsyncIteration):
            await feeder.get()


async def test_async_input_error_of_the_source_comes_as_itself() -> None:
    """An error of the source comes as itself."""
    error = Boom()

    async def source() -> AsyncIterator[int]:
        yield 1
        raise error

    feeder = AsyncInput(source())
    async with anyio.create_task_group() as group:
        group.start_soon(feeder.run)
        assert await feeder.get() == 1
        with pytest.raises(Boom) as caught:
            await feeder.get()
        assert caught.value is error


async def test_async_input_one_task_pulls_a_generator_that_holds_a_task_group_open() -> None:
    """One task pulls a generator that holds a task group open."""
    ran: set[int] = set()

    async def source() -> AsyncIterator[int]:
        async with anyio.create_task_group() as group:
            for value in range(20):
                ran.add(anyio.get_current_task().id)
                group.start_soon(anyio.lowlevel.checkpoint)
                yield value

    outputs = await RunnableLambda(same).abatch(source(), {"max_concurrency": 5})
    assert outputs == list(range(20))
    assert len(ran) == 1


@pytest.mark.parametrize("how", ["error", "close", "cancel"])
async def test_async_input_generator_with_a_task_group_ends_with_the_run(how: str) -> None:
    """However the run ends: closed in the task that opened it, and nothing of it is left."""
    before, ended = tasks(), anyio.Event()

    async def source() -> AsyncIterator[int]:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                for value in range(1000):
                    yield value
        finally:
            ended.set()

    async def leaf(value: int) -> int:
        await pause(1)
        if value == 5 and how == "error":
            raise Boom
        if value == 5 and how == "cancel":
            scope.cancel()
        return value

    chain, scope = RunnableLambda(leaf), anyio.CancelScope()
    if how == "error":
        with pytest.raises(Boom):
            await chain.abatch(source(), {"max_concurrency": 2, "window": 3})
    elif how == "close":
        async with chain.abatch_iter(source(), {"max_concurrency": 2, "window": 3}) as stream:
            assert await anext(stream) == 0
    else:
        with scope:
            await chain.abatch(source(), {"max_concurrency": 2, "window": 3})
    assert ended.is_set()
    assert tasks() == before


def test_async_input_generator_with_a_task_group_ends_with_the_deadline() -> None:
    """A generator with a task group ends with the deadline."""
    ended: list[bool] = []

    async def source() -> AsyncIterator[int]:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                for value in range(1000):
                    yield value
        finally:
            ended.append(True)

    async def main() -> None:
        with pytest.raises(DeadlineExceededError):
            await RunnableLambda(anyio.sleep).abatch(source(), {"max_concurrency": 2, "deadline": 10})
        assert ended == [True]

    on_trio(main)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Boom])
@pytest.mark.parametrize("tolerant", [False, True])
async def test_async_input_what_the_source_raises_ends_the_run_as_itself(
    kind: type[BaseException], tolerant: bool
) -> None:
    """What the source raises ends the run as itself."""

    async def source() -> AsyncIterator[int]:
        yield 1
        raise kind

    with pytest.raises(kind):
        await RunnableLambda(same).abatch(source(), return_exceptions=tolerant)


async def test_async_input_stream_that_feeds_another_ends_with_it() -> None:
    """Closing the outer run closes the inner one, as it does with any async generator."""
    before = tasks()
    chain = RunnableLambda(same)
    inner = chain.abatch_iter(range(1000), config(max_concurrency=3))
    async with chain.abatch_iter(inner, config(max_concurrency=2)) as outer:
        assert await anext(outer) == 0
    await pause()
    assert tasks() == before


@pytest.mark.parametrize("pulling", [False, True])
@pytest.mark.parametrize("how", ["close", "drop", "error", "deadline"])
async def test_async_input_cleanup_is_not_cut_short_by_the_runs_end(how: str, pulling: bool) -> None:
    """A connection is given back, whether the source stood at a yield or was waiting for its next row."""
    log: list[str] = []

    async def source() -> AsyncIterator[int]:
        try:
            for value in range(3 if pulling else 1000):
                yield value
            await anyio.sleep_forever()
        finally:
            await pause(20)
            log.append("released")

    async def leaf(value: int) -> int:
        await pause(2)
        if value == 2 and how == "error":
            raise Boom
        if value == 2 and how == "deadline":
            await anyio.sleep_forever()
        return value

    chain = RunnableLambda(leaf)
    if how == "close":
        async with chain.abatch_iter(source(), config(max_concurrency=2)) as stream:
            assert await anext(stream) == 0
    elif how == "drop":
        dropped = chain.abatch_iter(source(), config(max_concurrency=2))
        assert await anext(dropped) == 0
        del dropped
        gc.collect()
        await until(lambda: log)
    else:
        with pytest.raises((Boom, DeadlineExceededError)):
            await chain.abatch(source(), config(max_concurrency=2, deadline=0.05))
    assert log == ["released"]


@pytest.mark.parametrize("pulling", [False, True])
@pytest.mark.parametrize("how", ["during the run", "during the cleanup"])
async def test_async_input_cleanup_is_reached_by_outer_cancellation(how: str, pulling: bool) -> None:
    """A cleanup that hangs holds up no caller that is cancelled."""
    cleaning, before = anyio.Event(), tasks()

    async def source() -> AsyncIterator[int]:
        try:
            for value in range(3 if pulling else 1000):
                yield value
            await anyio.sleep_forever()
        finally:
            cleaning.set()
            await anyio.sleep_forever()

    async def leaf(value: int) -> int:
        if value == 2:
            if how == "during the run":
                scope.cancel()
            else:
                raise Boom
        return value

    async def cancel() -> None:
        await cleaning.wait()
        scope.cancel()

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        with scope:
            await RunnableLambda(leaf).abatch(source(), config(max_concurrency=2))
        assert scope.cancelled_caught
    assert tasks() == before


async def test_async_input_source_that_swallows_its_end_and_goes_on_is_ended() -> None:
    """A source that swallows its end and goes on is ended."""

    async def source() -> AsyncIterator[int]:
        while True:
            try:
                yield 1
                await anyio.sleep_forever()
            except BaseException:
                yield 2
                raise

    async with RunnableLambda(same).abatch_iter(source(), config(max_concurrency=2)) as stream:
        assert await anext(stream) == 1
        await pause()
