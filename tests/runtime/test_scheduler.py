"""The window: the cap, no barriers, laziness, the ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from batchrt import (
    DeadlineExceededError,
    ItemTimeoutError,
    RunnableLambda,
    StrayCancelledError,
)

from .harness import (
    Boom,
    Watch,
    all_slots_come_back,
    check_over,
    config,
    on_trio,
    pause,
    tasks,
    until,
)

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="unset")


def leaf_of(watch: Watch, rounds: int = 2) -> RunnableLambda[Any, Any]:
    async def leaf(value: Any) -> Any:
        with watch:
            await pause(rounds)
        return value

    return RunnableLambda(leaf)


def sync_leaf_of(watch: Watch) -> RunnableLambda[Any, Any]:
    def leaf(value: Any) -> Any:
        with watch:
            return value

    return RunnableLambda(leaf)


# The cap


@pytest.mark.parametrize("cap", [1, 3, 50])
async def test_as_many_leaves_as_the_cap_run_and_no_more(cap: int) -> None:
    watch = Watch()
    with all_slots_come_back():
        await leaf_of(watch, 10).abatch(range(100), config(max_concurrency=cap))
    assert watch.peak == cap


@pytest.mark.parametrize("sync_at", [(), (0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("cap", [1, 2])
async def test_nested_batches_three_deep_hold_the_cap(sync_at: tuple[int, ...], cap: int) -> None:
    """In async and in sync functions, and the two mixed."""
    watch = Watch()

    def nest(inner: RunnableLambda[Any, Any], *, sync: bool) -> RunnableLambda[Any, Any]:
        async def nested(value: int) -> int:
            with watch:
                await pause(1)
            outputs = await inner.abatch([value] * 2)
            with watch:
                return sum(outputs)

        def nested_in_thread(value: int) -> int:
            outputs = inner.batch([value] * 2)
            with watch:
                return sum(outputs)

        return RunnableLambda(nested_in_thread if sync else nested)

    chain = sync_leaf_of(watch) if 0 in sync_at else leaf_of(watch)
    chain = nest(chain, sync=1 in sync_at)
    chain = nest(chain, sync=2 in sync_at)
    with all_slots_come_back():
        outputs = await chain.abatch(range(6), config(max_concurrency=cap))
    assert outputs == [4 * value for value in range(6)]
    assert watch.peak <= cap


async def test_two_nested_batches_at_once_in_one_leaf_share_its_slot() -> None:
    watch = Watch()
    inner = leaf_of(watch)

    async def outer(value: int) -> int:
        async with anyio.create_task_group() as group:
            group.start_soon(inner.abatch, [value] * 5)
            group.start_soon(inner.abatch, [value] * 3)
        return value

    with all_slots_come_back():
        outputs = await RunnableLambda(outer).abatch(range(4), config(max_concurrency=1))
    assert outputs == list(range(4))
    assert watch.peak == 1
    assert watch.entered == 32


async def test_a_nested_cap_holds_in_addition() -> None:
    loose, tight = Watch(), Watch()

    async def outer(value: int) -> int:
        await leaf_of(loose).abatch(range(6), config(max_concurrency=100))
        await leaf_of(tight).abatch(range(6), config(max_concurrency=1))
        return value

    await RunnableLambda(outer).abatch([0], config(max_concurrency=4))
    assert loose.peak <= 4
    assert tight.peak == 1


async def test_a_cap_inside_a_chain_holds_over_all_items() -> None:
    narrow, wide = Watch(), Watch()
    chain = leaf_of(wide, 10) | leaf_of(narrow).with_config(max_concurrency=2) | leaf_of(wide)
    with all_slots_come_back():
        await chain.abatch(range(50), config(max_concurrency=8))
    assert narrow.peak == 2
    assert 2 < wide.peak <= 8


async def test_fallbacks_are_under_the_cap() -> None:
    watch = Watch()

    async def fail(_: object) -> None:
        with watch:
            await pause(1)
            raise Boom

    chain = RunnableLambda(fail).with_fallbacks([RunnableLambda(fail), leaf_of(watch)])
    with all_slots_come_back():
        outputs = await chain.abatch(range(20), config(max_concurrency=3))
    assert outputs == list(range(20))
    assert watch.peak == 3


@pytest.mark.parametrize("cap", [1, 2])
async def test_a_sync_batch_inside_an_async_leaf_blocks_its_loop_and_ends(cap: int) -> None:
    """Nobody on the loop can give a slot back meanwhile: it works with its own."""
    watch = Watch()

    async def outer(value: int) -> int:
        with contextlib.suppress(Boom):
            sync_leaf_of(watch).batch([value])
        return sum(leaf_of(watch).batch([value] * 3))

    with all_slots_come_back():
        outputs = await RunnableLambda(outer).abatch(range(4), config(max_concurrency=cap))
    assert outputs == [3 * value for value in range(4)]
    assert watch.peak == 1


# No barrier


async def test_a_slow_item_holds_nobody_up() -> None:
    slow, done = anyio.Event(), []

    async def first(value: int) -> int:
        if value == 0:
            await slow.wait()
        return value

    async def second(value: int) -> int:
        done.append(value)
        if len(done) == 99:
            slow.set()
        return value

    outputs = await (RunnableLambda(first) | second).abatch(range(100), config(max_concurrency=2))
    assert outputs == list(range(100))
    assert done == [*range(1, 100), 0]


async def test_items_start_in_input_order() -> None:
    started: list[int] = []

    async def leaf(value: int) -> int:
        started.append(value)
        await pause(value % 7)
        return value

    await RunnableLambda(leaf).abatch(range(200), config(max_concurrency=10))
    assert started == list(range(200))


# Inputs


def _some_generator() -> Iterator[int]:
    yield from range(5)


async def _some_async_generator() -> AsyncIterator[int]:
    for value in range(5):
        yield value


@pytest.mark.parametrize(
    "make",
    [
        lambda: [0, 1, 2, 3, 4],
        lambda: (0, 1, 2, 3, 4),
        lambda: range(5),
        lambda: {0, 1, 2, 3, 4},
        lambda: dict.fromkeys(range(5)),
        lambda: {n: n for n in range(5)}.values(),
        lambda: iter([0, 1, 2, 3, 4]),
        _some_generator,
        _some_async_generator,
    ],
)
@pytest.mark.parametrize("cap", [1, 3, None])
async def test_any_iterable_will_do(make: Callable[[], Any], cap: int | None) -> None:
    chain = leaf_of(Watch())
    assert await chain.abatch(make(), config(max_concurrency=cap)) == [0, 1, 2, 3, 4]
    assert [out async for out in chain.abatch_iter(make(), config(max_concurrency=cap))] == list(range(5))


@pytest.mark.parametrize("make", [list, lambda: iter(()), lambda: _nothing()])
async def test_no_inputs_give_no_outputs(make: Callable[[], Any]) -> None:
    chain = leaf_of(Watch())
    assert await chain.abatch(make()) == []
    assert [out async for out in chain.abatch_iter(make())] == []
    assert list(await chain.arun(make())) == []


async def _nothing() -> AsyncIterator[int]:
    for value in ():
        yield value


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_inputs_are_pulled_as_slots_are_free(kind: str) -> None:
    """Never more than what is running, and one."""
    watch, pulled, done, most = Watch(), [0], [0], [0]

    def note() -> None:
        pulled[0] += 1
        most[0] = max(most[0], pulled[0] - done[0])

    def source() -> Iterator[int]:
        for value in range(50):
            note()
            yield value

    async def async_source() -> AsyncIterator[int]:
        for value in range(50):
            note()
            yield value

    async def leaf(value: int) -> int:
        with watch:
            await pause(3)
            done[0] += 1
        return value

    inputs: Any = source() if kind == "sync" else async_source()
    assert await RunnableLambda(leaf).abatch(inputs, config(max_concurrency=4)) == list(range(50))
    assert most[0] <= 5


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("kind", [Boom, KeyboardInterrupt, SystemExit])
async def test_what_the_inputs_raise_ends_the_run_as_itself(
    tolerant: bool, kind: type[BaseException]
) -> None:
    watch, before, error = Watch(), tasks(), kind()

    async def leaf(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    with pytest.raises(kind) as caught:
        await RunnableLambda(leaf).abatch(source(), return_exceptions=tolerant)
    assert caught.value is error
    assert "2 of them" in caught.value.__notes__[0]
    await check_over(watch, before)


# The ends


async def test_the_first_error_comes_as_itself_when_all_has_ended() -> None:
    watch, before, error = Watch(), tasks(), Boom()

    async def leaf(value: int) -> None:
        with watch:
            if value == 7:
                await pause(3)
                raise error
            await anyio.sleep_forever()

    with all_slots_come_back(), pytest.raises(Boom) as caught:
        await RunnableLambda(leaf).abatch(range(20), config(max_concurrency=10))
    assert caught.value is error
    assert caught.value.__notes__ == ["batchrt: item 7 failed; the rest was cancelled"]
    await check_over(watch, before)


async def test_an_error_that_cannot_take_a_note_comes_without() -> None:
    @dataclass(frozen=True)
    class FrozenError(Exception):
        code: int

    async def fail(value: int) -> None:
        raise FrozenError(value)

    with pytest.raises(FrozenError):
        await RunnableLambda(fail).abatch([1, 2])


async def test_an_error_while_others_clean_up_does_not_take_the_firsts_place() -> None:
    first = Boom("first")

    async def leaf(value: int) -> None:
        if value == 0:
            await pause(2)
            raise first
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom("second")

    with pytest.raises(Boom) as caught:
        await RunnableLambda(leaf).abatch(range(3))
    assert caught.value is first


async def test_exceptions_that_are_returned_are_values() -> None:
    error = Boom()

    async def give(_: object) -> Boom:
        return error

    assert await RunnableLambda(give).abatch([1, 2]) == [error, error]
    result = await RunnableLambda(give).arun([1])
    assert result.outputs == [error]
    assert result.errors == {}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_in_a_leaf_ends_the_run_whatever_is_tolerated(kind: type[BaseException]) -> None:
    watch, before, error = Watch(), tasks(), kind()

    async def leaf(value: int) -> None:
        with watch:
            if value == 3:
                await pause(2)
                raise error
            await anyio.sleep_forever()

    with pytest.raises(kind) as caught:
        await RunnableLambda(leaf).abatch(range(5), return_exceptions=True)
    assert caught.value is error
    await check_over(watch, before)


@pytest.mark.parametrize("tolerant", [False, True])
async def test_a_cancellation_gets_through_whatever_is_tolerated(tolerant: bool) -> None:
    watch, before = Watch(), tasks()

    async def forever(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    async def main() -> None:
        await RunnableLambda(forever).abatch(
            range(50), config(max_concurrency=5), return_exceptions=tolerant
        )
        pytest.fail("the cancellation was swallowed")

    with all_slots_come_back():
        async with anyio.create_task_group() as group:
            group.start_soon(main)
            await until(lambda: watch.active == 5)
            group.cancel_scope.cancel()
    await check_over(watch, before)
    assert watch.entered == 5


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_asyncios_own_cancellation_gets_through(how: str) -> None:
    watch = Watch()

    async def forever(_: object) -> None:
        with watch:
            await asyncio.Event().wait()

    async def call() -> None:
        await RunnableLambda(forever).abatch(range(9), config(max_concurrency=3), return_exceptions=True)

    async def main() -> None:
        before = tasks()
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await call()
        else:
            task = asyncio.create_task(call())
            await until(lambda: watch.active == 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await check_over(watch, before)
        assert watch.entered == 3

    asyncio.run(main())


def test_leaves_may_use_asyncios_own_timeouts_and_groups() -> None:
    """They cancel the task they run in, which is a worker with other items to carry."""

    async def leaf(value: int) -> int:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            pass

        async def fail() -> None:
            raise Boom

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(asyncio.Event().wait())
        except* Boom:
            pass
        return value

    async def main() -> None:
        assert await RunnableLambda(leaf).abatch(range(20), config(max_concurrency=2)) == list(range(20))

    asyncio.run(main())


def test_a_stray_cancellation_is_its_items_error_and_nobody_elses() -> None:
    async def leaf(value: int) -> int:
        if value == 1:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        await pause(2)
        return value

    async def main() -> None:
        chain = RunnableLambda(leaf)
        outputs = await chain.abatch(range(3), return_exceptions=True)
        assert [outputs[0], outputs[2]] == [0, 2]
        assert type(outputs[1]) is StrayCancelledError
        assert isinstance(outputs[1].__cause__, asyncio.CancelledError)
        for call in (chain.abatch(range(3)), chain.ainvoke(1)):
            with pytest.raises(StrayCancelledError):
                await call

    asyncio.run(main())
    with pytest.raises(StrayCancelledError):
        RunnableLambda(leaf).invoke(1)


def test_a_stray_cancellation_from_the_inputs_is_raised_as_one() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def main() -> None:
        with pytest.raises(StrayCancelledError):
            await leaf_of(Watch()).abatch(source(), return_exceptions=True)

    asyncio.run(main())


def test_a_leaf_that_cancels_the_task_it_runs_in_ends_the_run_with_an_error() -> None:
    watch = Watch()

    async def leaf(value: int) -> int:
        with watch:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        return value

    async def main() -> None:
        with pytest.raises(StrayCancelledError):
            await RunnableLambda(leaf).abatch(range(3), return_exceptions=True)
        await check_over(watch, tasks())

    asyncio.run(main())


# Time


def test_a_timeout_is_for_each_item() -> None:
    async def leaf(value: int) -> int:
        await anyio.sleep(value)
        return value

    async def main() -> None:
        before = anyio.current_time()
        outputs = await RunnableLambda(leaf).abatch(
            [1, 100, 2, 100, 3], config(timeout=10, max_concurrency=1), return_exceptions=True
        )
        assert [outputs[0], outputs[2], outputs[4]] == [1, 2, 3]
        assert isinstance(outputs[1], ItemTimeoutError)
        assert outputs[1].seconds == 10
        assert isinstance(outputs[3], ItemTimeoutError)
        assert anyio.current_time() - before == 26

    on_trio(main)


def test_a_timeout_ends_the_run_if_nothing_is_tolerated() -> None:
    async def main() -> None:
        with pytest.raises(ItemTimeoutError):
            await RunnableLambda(anyio.sleep).abatch([1, 100, 2], config(timeout=10))
        with pytest.raises(ItemTimeoutError):
            await RunnableLambda(anyio.sleep).ainvoke(100, config(timeout=10))

    on_trio(main)


def test_a_deadline_is_for_the_run() -> None:
    async def leaf(value: int) -> int:
        await anyio.sleep(value)
        return value

    chain = RunnableLambda(leaf)

    async def main() -> None:
        before = anyio.current_time()
        keys = config(deadline=10, max_concurrency=2)
        outputs = await chain.abatch([1, 100, 2, 3, 100, 5], keys, return_exceptions=True)
        assert [outputs[0], outputs[2], outputs[3]] == [1, 2, 3]
        assert [type(outputs[n]) for n in (1, 4, 5)] == [DeadlineExceededError] * 3
        assert anyio.current_time() - before == 10
        with pytest.raises(DeadlineExceededError):
            await chain.abatch([1, 100], keys)
        with pytest.raises(DeadlineExceededError):
            await chain.ainvoke(100, keys)
        result = await chain.arun([1, 100], keys)
        assert type(result.errors[1]) is DeadlineExceededError
        assert anyio.current_time() - before == 40

    on_trio(main)


def test_a_deadline_with_inputs_of_unknown_number_is_raised() -> None:
    async def main() -> None:
        for source in (iter([1, 100]), _unsized()):
            with pytest.raises(DeadlineExceededError):
                await RunnableLambda(anyio.sleep).abatch(
                    source, config(deadline=10), return_exceptions=True
                )
        with pytest.raises(DeadlineExceededError):
            await RunnableLambda(anyio.sleep).arun(iter([100]), config(deadline=10))

    on_trio(main)


async def _unsized() -> AsyncIterator[float]:
    yield 1
    await anyio.sleep(100)


def test_a_deadline_inside_an_item_is_the_items_error() -> None:
    async def nested(value: int) -> Any:
        return await RunnableLambda(anyio.sleep).abatch([value], config(deadline=10))

    async def main() -> None:
        outputs = await RunnableLambda(nested).abatch([1, 100], return_exceptions=True)
        assert outputs[0] == [None]
        assert type(outputs[1]) is DeadlineExceededError

    on_trio(main)


# Context variables


async def test_items_do_not_see_each_others_context() -> None:
    async def mark(value: int) -> str:
        before = variable.get()
        variable.set(f"set for {value}")
        await pause(2)
        assert variable.get() == f"set for {value}"
        return before

    variable.set("caller")
    chain = RunnableLambda(mark)
    for cap in (1, 3):
        assert await chain.abatch(range(20), config(max_concurrency=cap)) == ["caller"] * 20
    assert await chain.ainvoke(1) == "caller"
    assert [out async for out in chain.abatch_iter(range(5))] == ["caller"] * 5
    assert variable.get() == "caller"


async def test_steps_of_one_item_share_its_context() -> None:
    async def mark(value: int) -> int:
        variable.set(f"set for {value}")
        await pause(1)
        return value

    async def look(_: int) -> str:
        return variable.get()

    chain = RunnableLambda(mark) | look
    outputs = await chain.abatch(range(9), config(max_concurrency=2))
    assert outputs == [f"set for {value}" for value in range(9)]


# A shared loop


async def test_a_run_that_never_waits_lets_others_run() -> None:
    """A service's other tasks share the loop; ten thousand inline items must not shut them out."""
    rounds = [0]

    async def other() -> None:
        while True:
            rounds[0] += 1
            await pause(1)

    def burn(value: int) -> int:
        return sum(range(300))

    from operator import itemgetter

    inputs = [{"n": n} for n in range(60_000)]
    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await pause(1)
        await RunnableLambda(itemgetter("n")).abatch(inputs)
        seen = rounds[0]
        group.cancel_scope.cancel()
    assert seen > 5
