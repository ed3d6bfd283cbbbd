"""How a run ends: errors, cancellations, interrupts, time; and that nothing of it is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

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
        await RunnableLambda(forever).abatch(range(50), config(max_concurrency=5), return_exceptions=tolerant)
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

    async def expire(bound: asyncio.Timeout) -> None:
        await until(lambda: watch.active == 3)
        bound.reschedule(asyncio.get_running_loop().time())

    async def main() -> None:
        before = tasks()
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as bound, anyio.create_task_group() as group:
                    group.start_soon(expire, bound)
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
        outputs: list[Any] = await chain.abatch(range(3), return_exceptions=True)
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
        before = tasks()
        for inputs in (range(3), range(1)):
            with pytest.raises(StrayCancelledError):
                await RunnableLambda(leaf).abatch(inputs, return_exceptions=True)
            await check_over(watch, before)

    asyncio.run(main())


# Time


def test_a_timeout_is_for_each_item() -> None:
    async def leaf(value: int) -> int:
        await anyio.sleep(value)
        return value

    async def main() -> None:
        before = anyio.current_time()
        outputs: list[Any] = await RunnableLambda(leaf).abatch(
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
        outputs: list[Any] = await chain.abatch([1, 100, 2, 3, 100, 5], keys, return_exceptions=True)
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
                await RunnableLambda(anyio.sleep).abatch(source, config(deadline=10), return_exceptions=True)
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


@pytest.mark.parametrize("cap", [None, 1, 5, "auto"])
@pytest.mark.parametrize("given", [list, iter], ids=["a list", "an iterator"])
def test_a_deadline_is_looked_at_between_items_that_never_await(cap: Any, given: Any) -> None:
    """The event loop cannot see it pass: each function takes half of it, and the third is not begun."""
    begun = 0

    def run(**options: Any) -> Any:
        nonlocal begun
        begun = 0
        clock = MockClock()

        async def busy(value: int) -> int:
            nonlocal begun
            begun += 1
            clock.jump(0.5)
            return value

        async def main() -> Any:
            settings = config(max_concurrency=cap, deadline=1.0)
            return await RunnableLambda(busy).abatch(given(range(40)), settings, **options)

        return anyio.run(main, backend="trio", backend_options={"clock": clock})

    with pytest.raises(DeadlineExceededError, match="deadline of 1 s passed with 2 items started"):
        run()
    assert begun == 2
    if given is list:
        results = run(return_exceptions=True)
        assert results[:2] == [0, 1]
        assert all(isinstance(result, DeadlineExceededError) for result in results[2:])
        assert len(results) == 40


def test_a_deadline_that_passes_in_the_last_item_is_no_error() -> None:
    """Nothing is left that could have been cancelled."""
    clock = MockClock()

    async def busy(value: int) -> int:
        clock.jump(0.6)
        return value

    async def main() -> Any:
        return await RunnableLambda(busy).abatch([0, 1], config(max_concurrency=1, deadline=1.0))

    assert anyio.run(main, backend="trio", backend_options={"clock": clock}) == [0, 1]
