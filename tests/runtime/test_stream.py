"""Outcomes as they come: in order or as completed, bounded, and closed without remains."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from batchrt import DeadlineExceededError, RunnableLambda
from tests import virtual
from tests.runtime.harness import (
    Boom,
    Watch,
    all_slots_come_back,
    check_over,
    config,
    on_trio,
    output_of,
    pause,
    tasks,
    until,
)

pytestmark = pytest.mark.anyio


def leaf_of(watch: Watch, rounds: int = 2) -> RunnableLambda[Any, Any]:
    async def leaf(value: Any) -> Any:
        with watch:
            await pause(rounds)
        return value

    return RunnableLambda(leaf)


async def test_stream_slow_first_item_holds_no_other_up_as_completed() -> None:
    """A slow first item holds no other up as completed."""
    slow = anyio.Event()

    async def leaf(value: int) -> int:
        if value == 0:
            await slow.wait()
        return value

    seen = []
    async for index, output in RunnableLambda(leaf).abatch_as_completed(range(50), config(max_concurrency=2)):
        assert index == output
        seen.append(index)
        if len(seen) == 49:
            slow.set()
    assert seen == [*range(1, 50), 0]


@pytest.mark.parametrize("window", [1, 3, 10])
async def test_stream_in_order_work_goes_on_behind_a_slow_item_up_to_the_window(window: int) -> None:
    """In order work goes on behind a slow item up to the window."""
    slow, started = anyio.Event(), []

    async def leaf(value: int) -> int:
        started.append(value)
        if value == 0:
            await slow.wait()
        return value

    async with anyio.create_task_group() as group:
        seen: list[int] = []

        async def consume() -> None:
            keys = config(max_concurrency=2, window=window)
            async for output in RunnableLambda(leaf).abatch_iter(range(50), keys):
                seen.append(output)

        group.start_soon(consume)
        await pause(100)
        assert started == list(range(window))
        assert seen == []
        slow.set()
    assert seen == list(range(50))


@pytest.mark.parametrize("ordered", [True, False])
async def test_stream_slow_consumer_stops_admission(ordered: bool) -> None:
    """A slow consumer stops admission."""
    watch = Watch()
    chain = leaf_of(watch, 0)
    keys = config(max_concurrency=3, window=1000)
    stream: Any = (chain.abatch_iter if ordered else chain.abatch_as_completed)(range(1000), keys)
    async with stream:
        await anext(stream)
        await pause(100)
        ahead = watch.entered
        assert ahead <= 8
        await pause(100)
        assert watch.entered == ahead
        for _ in range(10):
            await anext(stream)
        await pause(100)
        assert ahead < watch.entered <= ahead + 12


async def test_stream_nothing_is_pulled_before_the_first_anext() -> None:
    """Nothing is pulled before the first anext."""
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for value in itertools.count():
            pulled.append(value)
            yield value

    before = tasks()
    stream = leaf_of(Watch()).abatch_iter(source(), config(max_concurrency=2))
    await pause()
    assert pulled == []
    assert tasks() == before
    await stream.aclose()
    assert pulled == []


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("ordered", [True, False])
async def test_stream_infinite_input_may_be_left_early(kind: str, ordered: bool) -> None:
    """And no more of it is pulled than the window and one."""
    watch, before, pulled = Watch(), tasks(), [0]

    def source() -> Iterator[int]:
        for value in itertools.count():
            pulled[0] += 1
            yield value

    async def async_source() -> AsyncIterator[int]:
        for value in itertools.count():
            pulled[0] += 1
            yield value

    inputs: Any = source() if kind == "sync" else async_source()
    chain, keys = leaf_of(watch), config(max_concurrency=4, window=6)
    stream: Any = (chain.abatch_iter if ordered else chain.abatch_as_completed)(inputs, keys)
    taken = 0
    with all_slots_come_back():
        async with stream:
            async for _ in stream:
                taken += 1
                assert pulled[0] <= taken + 7
                if taken == 20:
                    break
    await check_over(watch, before)


async def test_stream_closing_ends_the_work_before_it_returns() -> None:
    """Closing ends the work before it returns."""
    watch, before, ended = Watch(), tasks(), []

    async def leaf(value: int) -> int:
        with watch:
            try:
                if value:
                    await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await pause(10)
                ended.append(value)
        return value

    stream = RunnableLambda(leaf).abatch_iter(range(10), config(max_concurrency=3))
    assert await anext(stream) == 0
    await until(lambda: watch.active == 3)
    await stream.aclose()
    await check_over(watch, before)
    assert sorted(ended) == [0, 1, 2, 3]
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_stream_dropped_stream_ends_its_work() -> None:
    """A dropped stream ends its work."""
    watch, before = Watch(), tasks()

    async def leaf(value: int) -> int:
        with watch:
            if value:
                await anyio.sleep_forever()
        return value

    stream = RunnableLambda(leaf).abatch_iter(range(10), config(max_concurrency=3))
    assert await anext(stream) == 0
    del stream
    gc.collect()
    await until(lambda: tasks() == before)
    await check_over(watch, before)


async def test_stream_consumer_that_is_cancelled_while_it_waits_ends_the_run() -> None:
    """A consumer that is cancelled while it waits ends the run."""
    watch, before = Watch(), tasks()

    async def leaf(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    stream = RunnableLambda(leaf).abatch_iter(range(10), config(max_concurrency=3))
    async with anyio.create_task_group() as group:
        group.start_soon(anext, stream)
        await until(lambda: watch.active == 3)
        group.cancel_scope.cancel()
    await check_over(watch, before)


async def test_stream_first_error_is_raised_as_itself_after_what_was_done() -> None:
    """The first error is raised as itself after what was done."""
    watch, before, error = Watch(), tasks(), Boom()

    async def leaf(value: int) -> int:
        with watch:
            if value == 3:
                raise error
            if value > 3:
                await anyio.sleep_forever()
        return value

    stream = RunnableLambda(leaf).abatch_iter(range(10), config(max_concurrency=2))
    assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Boom) as caught:
        await anext(stream)
    assert caught.value is error
    await check_over(watch, before)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_stream_tolerated_errors_are_outcomes() -> None:
    """Tolerated errors are outcomes."""

    async def leaf(value: int) -> int:
        if value % 2:
            raise Boom(value)
        return value

    chain = RunnableLambda(leaf)
    outputs: list[Any] = [out async for out in chain.abatch_iter(range(4), return_exceptions=True)]
    assert [outputs[0], outputs[2]] == [0, 2]
    assert [type(outputs[1]), type(outputs[3])] == [Boom, Boom]


@pytest.mark.parametrize("kind", [Boom, KeyboardInterrupt])
async def test_stream_error_of_the_inputs_comes_after_the_outcomes_that_were_ready(
    kind: type[BaseException],
) -> None:
    """An error of the inputs comes after the outcomes that were ready."""

    def source() -> Iterator[int]:
        yield 0
        yield 1
        raise kind

    stream = leaf_of(Watch(), 0).abatch_iter(source(), config(max_concurrency=1), return_exceptions=True)
    assert [await anext(stream), await anext(stream)] == [0, 1]
    with pytest.raises(kind):
        await anext(stream)


async def zero_alone(value: int) -> int:
    """Give 0 at once, 3 and 7 after a second, and nothing else."""
    if value not in {0, 3, 7}:
        await anyio.sleep_forever()
    await anyio.sleep(bool(value))
    return value


async def endless(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


@pytest.mark.parametrize("errors", [True, False])
@pytest.mark.parametrize("inputs", [lambda: range(3), lambda: iter(range(3)), lambda: endless(3)])
def test_stream_deadline_ends_the_stream_with_its_error(errors: bool, inputs: Any) -> None:
    """Where errors have no places to stand in: the number of inputs is not known, or none is wanted."""

    async def main() -> None:
        before = tasks()
        given = inputs()
        if errors and isinstance(given, range):
            return
        stream = RunnableLambda(zero_alone).abatch_iter(given, config(deadline=10), return_exceptions=errors)
        assert await anext(stream) == 0
        with pytest.raises(DeadlineExceededError):
            await anext(stream)
        assert tasks() == before

    on_trio(main)


@pytest.mark.parametrize("cap", [1, 2, 5, None])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_stream_deadline_of_an_iterator_is_that_of_a_list(cap: int | None, chunk: int) -> None:
    """Each position holds the same, whichever way the outcomes are asked for."""

    def told(outcome: Any) -> Any:
        return type(outcome).__name__ if isinstance(outcome, Exception) else outcome

    async def main() -> None:
        chain, how = RunnableLambda(zero_alone), config(deadline=10, max_concurrency=cap, window=8)
        expected = [told(outcome) for outcome in await chain.abatch(range(9), how, return_exceptions=True)]
        assert "DeadlineExceededError" in expected
        for ordered in (True, False):
            make = chain.abatch_iter if ordered else chain.abatch_as_completed
            stream: Any = make(range(9), how, return_exceptions=True)
            seen: list[Any] = []
            try:
                while True:
                    seen += await stream.next_chunk(chunk)
            except StopAsyncIteration:
                pass
            if not ordered:
                assert len(seen) == 9
                seen = [outcome for _, outcome in sorted(seen, key=lambda pair: pair[0])]
            assert [told(outcome) for outcome in seen] == expected
            assert stream.over

    on_trio(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_stream_deadline_of_a_sync_iterator_is_that_of_a_list(ordered: bool) -> None:
    """In a thread of plain code; the time is real, and passed before anything can be done."""

    async def never(value: int) -> int:
        await anyio.sleep_forever()
        return value

    chain, how = RunnableLambda(never), config(deadline=0.01)
    if ordered:
        outcomes: list[Any] = list(chain.batch_iter(range(5), how, return_exceptions=True))
    else:
        pairs: list[Any] = list(chain.batch_as_completed(range(5), how, return_exceptions=True))
        assert sorted(index for index, _ in pairs) == [0, 1, 2, 3, 4]
        outcomes = [outcome for _, outcome in pairs]
    assert len(outcomes) == 5
    assert all(isinstance(outcome, DeadlineExceededError) for outcome in outcomes)


def test_stream_deadline_that_an_item_raises_is_the_items_own() -> None:
    """It ends nothing."""

    async def main() -> None:
        async def leaf(value: int) -> int:
            if value == 1:
                raise DeadlineExceededError("its own", seconds=1)
            return value

        stream = RunnableLambda(leaf).abatch_iter(range(3), config(deadline=10), return_exceptions=True)
        seen = [outcome async for outcome in stream]
        assert [seen[0], str(seen[1]), seen[2]] == [0, "its own", 2]

    on_trio(main)


def test_stream_deadline_with_outcomes_that_wait_for_a_slow_consumer() -> None:
    """What was ready when it passed is handed out first; nothing is begun any more."""

    async def main() -> None:
        started: list[int] = []

        async def leaf(value: int) -> int:
            started.append(value)
            return value

        how = config(deadline=5, window=4, max_concurrency=1)
        stream = RunnableLambda(leaf).abatch_iter(range(50), how, return_exceptions=True)
        assert await anext(stream) == 0
        await anyio.sleep(10)
        begun = len(started)
        rest = [outcome async for outcome in stream]
        assert len(rest) == 49
        assert [outcome for outcome in rest if isinstance(outcome, int)] == [*range(1, begun)]
        assert len(started) == begun

    on_trio(main)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_stream_outcome_taken_at_the_moment_the_run_ends_begins_nothing(backend: str) -> None:
    """The window has room again, and the deadline's last item has just been cleaned up."""

    async def main() -> None:
        started: list[int] = []

        async def leaf(value: int) -> int:
            started.append(value)
            if value == 2:
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(1)
            return value

        how = config(deadline=5, window=3, max_concurrency=2)
        stream = RunnableLambda(leaf).abatch_iter(range(9), how, return_exceptions=True)
        assert await anext(stream) == 0
        await anyio.sleep(6)
        outcomes = [outcome async for outcome in stream]
        assert sum(isinstance(outcome, DeadlineExceededError) for outcome in outcomes) == 6
        assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [1, 3]
        assert started == [0, 1, 2, 3]

    for seed in range(40):  # of the order of tasks in that moment
        virtual.run(main, backend=backend, seed=seed)


async def test_stream_stream_is_for_one_task_at_a_time() -> None:
    """A second one would never be woken."""
    watch = Watch()

    async def forever(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    stream = RunnableLambda(forever).abatch_iter([1])
    async with anyio.create_task_group() as group:
        group.start_soon(anext, stream, None)
        await until(lambda: watch.active)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(stream)
        await stream.aclose()


async def test_stream_another_task_may_close_the_stream_that_one_waits_for() -> None:
    """Another task may close the stream that one waits for."""
    watch, ended = Watch(), []

    async def forever(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    stream = RunnableLambda(forever).abatch_iter([1])

    async def consume() -> None:
        async for _ in stream:
            pass
        ended.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await until(lambda: watch.active)
        await stream.aclose()
    assert ended == [True]


async def test_stream_stream_may_be_consumed_under_a_scope_that_is_left() -> None:
    """A stream may be consumed under a scope that is left."""
    stream = leaf_of(Watch()).abatch_iter(range(6), config(max_concurrency=2))
    with anyio.move_on_after(60):
        assert await anext(stream) == 0
    async with anyio.create_task_group() as group:
        group.start_soon(anext, stream)
    assert [output async for output in stream] == [2, 3, 4, 5]


@pytest.mark.parametrize("cap", [1, 2])
async def test_stream_nested_stream_is_under_the_cap(cap: int) -> None:
    """Its leaf works between the items, and gives its slot up while it waits for one."""
    watch = Watch()
    inner = leaf_of(watch)

    async def outer(value: int) -> int:
        total = 0
        async for output in inner.abatch_iter([value] * 5):
            with watch:
                await pause(2)
                total += output
        return total

    with all_slots_come_back():
        outputs = await RunnableLambda(outer).abatch(range(4), config(max_concurrency=cap))
    assert outputs == [5 * value for value in range(4)]
    assert watch.peak <= cap


def test_stream_stream_left_open_ends_with_its_loop() -> None:
    """A stream left open ends with its loop."""
    watch = Watch()

    async def leaf(value: int) -> int:
        with watch:
            if value:
                await asyncio.Event().wait()
        return value

    kept: list[Any] = []

    async def main() -> None:
        stream = RunnableLambda(leaf).abatch_iter(range(10), config(max_concurrency=3))
        kept.append(stream)
        assert await anext(stream) == 0
        await until(lambda: watch.active == 3)

    asyncio.run(main())
    assert watch.active == 0
    kept.clear()


def test_stream_stream_begun_in_the_last_moment_of_a_loop_does_not_hold_it() -> None:
    """A stream begun in the last moment of a loop does not hold it."""
    assert (
        output_of(
            """
        import asyncio, warnings
        from batchrt import RunnableLambda

        warnings.simplefilter("ignore")  # asyncio: "never awaited", of the task that never began

        async def leaf(value):
            await asyncio.Event().wait()

        async def consume():
            async for _ in RunnableLambda(leaf).abatch_iter(range(3)):
                pass

        async def main():
            kept.append(asyncio.create_task(consume()))
            for _ in range(rounds):
                await asyncio.sleep(0)

        kept = []
        for rounds in range(5):
            asyncio.run(main())
        print("ended")
        """
        )
        == "ended"
    )
