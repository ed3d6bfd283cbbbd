"""Sync functions: in worker threads, as many as the cap allows, and none left running."""

from __future__ import annotations

import gc
import threading
import time
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from batchrt import ItemTimeoutError, Runnable, RunnableLambda
from batchrt.runtime.event_loop import LoopHandle
from tests.runtime.harness import (
    Boom,
    Watch,
    all_slots_come_back,
    check_over,
    config,
    in_thread,
    pause,
    tasks,
    until,
)

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="unset")

MEETING_SECONDS = 30
"""How long threads wait for each other before a test fails."""


async def test_threads_as_many_functions_as_the_cap_run_at_once() -> None:
    """Fifty threads meet; the event loop's default of a few would never let them."""
    meeting = threading.Barrier(50)

    def meet(value: int) -> int:
        meeting.wait(MEETING_SECONDS)
        return value

    chain = RunnableLambda(meet)
    assert await chain.abatch(range(100), config(max_concurrency=50)) == list(range(100))


async def test_threads_without_a_cap_there_are_64_threads_and_no_more() -> None:
    """Without a cap there are 64 threads and no more."""
    watch, meeting = Watch(), threading.Barrier(64)

    def meet(value: int) -> int:
        with watch:
            meeting.wait(MEETING_SECONDS)
            return value

    assert await RunnableLambda(meet).abatch(range(128)) == list(range(128))
    assert watch.peak == 64


@pytest.mark.parametrize("cap", [None, 1, 3, 64])
async def test_threads_functions_that_batch_in_turn_do_not_deadlock(cap: int | None) -> None:
    """Three deep and more of them than threads: a thread that waits for others makes room for one."""
    watch = Watch()

    def leaf(value: int) -> int:
        with watch:
            return value

    def middle(value: int) -> int:
        return sum(RunnableLambda(leaf).batch([value, value]))

    def outer(value: int) -> int:
        return sum(RunnableLambda(middle).batch([value, value]))

    with all_slots_come_back():
        outputs = await RunnableLambda(outer).abatch(range(70), config(max_concurrency=cap))
    assert outputs == [4 * value for value in range(70)]
    assert watch.peak <= (cap or 64)


async def test_threads_function_that_runs_a_loop_of_its_own_is_part_of_the_run() -> None:
    """A function that runs a loop of its own is part of the run."""
    watch = Watch()

    async def leaf(value: int) -> int:
        with watch:
            await anyio.lowlevel.checkpoint()
            return value

    def outer(value: int) -> int:
        async def main() -> list[int]:
            return await RunnableLambda(leaf).abatch([value] * 3)

        return sum(anyio.run(main))

    with all_slots_come_back():
        outputs = await RunnableLambda(outer).abatch(range(5), config(max_concurrency=1))
    assert outputs == [3 * value for value in range(5)]
    assert watch.peak == 1


async def test_threads_uncapped_functions_with_loops_of_their_own_make_room_for_others() -> None:
    """From their own threads they change what belongs to the run's loop, which must be told safely."""
    meeting = threading.Barrier(70)

    def leaf(value: int) -> int:
        meeting.wait(MEETING_SECONDS)
        return value

    def outer(value: int) -> int:
        async def main() -> list[int]:
            return await RunnableLambda(leaf).abatch([value])

        return anyio.run(main)[0]

    assert await RunnableLambda(outer).abatch(range(70)) == list(range(70))


async def test_threads_context_variables_go_in_and_do_not_come_out() -> None:
    """Not into the next item on the same thread either."""

    def mark(value: int) -> str:
        before = variable.get()
        variable.set(f"set for {value}")
        return before

    variable.set("caller")
    chain = RunnableLambda(mark)
    assert await chain.abatch(range(20), config(max_concurrency=1)) == ["caller"] * 20
    assert await chain.ainvoke(1) == "caller"
    assert await anyio.to_thread.run_sync(chain.batch, range(5)) == ["caller"] * 5
    assert variable.get() == "caller"


@pytest.mark.parametrize("how", ["cancel", "timeout", "error"])
async def test_threads_no_function_runs_on_when_the_call_is_over(how: str) -> None:
    """A thread cannot be interrupted: the call waits for it, and starts no other."""
    watch, go, before = Watch(), threading.Event(), tasks()

    def block(value: int) -> int:
        with watch:
            if value == 0 and how == "error":
                while watch.active < 3:
                    time.sleep(0)
                raise Boom
            assert go.wait(MEETING_SECONDS)
            return value

    async def end_last(_: object) -> None:
        with watch:
            try:
                await anyio.sleep_forever()
            finally:
                go.set()

    async def choose(value: int) -> RunnableLambda[Any, Any]:
        return RunnableLambda(end_last) if value == 2 else RunnableLambda(block)

    chain: RunnableLambda[Any, Any] = RunnableLambda(choose)
    if how == "error":
        with pytest.raises(Boom):
            await chain.abatch(range(50), config(max_concurrency=3))
    elif how == "cancel":
        async with anyio.create_task_group() as group:
            group.start_soon(chain.abatch, range(50), config(max_concurrency=3))
            await until(lambda: watch.active == 3)
            group.cancel_scope.cancel()
    else:
        keys = config(max_concurrency=3, timeout=0.05)
        outcomes: list[Any] = await chain.abatch(range(3), keys, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ItemTimeoutError] * 3
    await check_over(watch, before)
    assert watch.entered <= 3


async def test_threads_function_that_waits_for_nested_work_is_cancelled_with_it() -> None:
    """A function that waits for nested work is cancelled with it."""
    watch, errors, before = Watch(), [], tasks()

    async def forever(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    def outer(value: int) -> list[None]:
        try:
            return RunnableLambda(forever).batch([value] * 2)
        except BaseException as error:
            errors.append(error)
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(RunnableLambda(outer).abatch, range(3), config(max_concurrency=2))
        await until(lambda: watch.active == 2)
        group.cancel_scope.cancel()
    await check_over(watch, before)
    assert errors
    assert {type(error).__name__ for error in errors} == {"CancelledError"}


@pytest.mark.parametrize("how", ["abatch", "ainvoke", "abatch_iter"])
async def test_threads_so_is_one_that_waits_on_a_loop_of_its_own(how: str) -> None:
    """So is one that waits on a loop of its own."""
    watch, before, errors = Watch(), tasks(), []

    async def forever(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    async def main() -> None:
        inner: RunnableLambda[Any, Any] = RunnableLambda(forever)
        if how == "abatch":
            await inner.abatch([1, 2], return_exceptions=True)
        elif how == "ainvoke":
            await inner.ainvoke(1)
        else:
            async for _ in inner.abatch_iter([1, 2]):
                pass

    def outer(_: object) -> None:
        try:
            anyio.run(main)
        except Exception as error:
            errors.append(error)
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(RunnableLambda(outer).abatch, [1, 2], config(max_concurrency=2))
        await until(lambda: watch.active == 2)
        group.cancel_scope.cancel()
    await check_over(watch, before)
    assert [type(error).__name__ for error in errors] == ["CancelledError"] * 2


async def test_threads_what_comes_after_a_cancelled_function_may_do_nested_work() -> None:
    """The cancellation was the first function's, not the item's."""
    inner: RunnableLambda[Any, Any] = RunnableLambda(lambda value: value)

    async def forever(_: object) -> None:
        await anyio.sleep_forever()

    def stuck(value: int) -> list[Any]:
        return list(RunnableLambda(forever).batch([value]))

    def instead(value: int) -> list[int]:
        return list(inner.batch([value, value]))

    first = RunnableLambda(stuck).with_config(timeout=0.05)
    chain = first.with_fallbacks([RunnableLambda(instead)])
    assert await chain.abatch([7]) == [[7, 7]]


async def test_threads_function_that_starts_threads_may_batch_in_them() -> None:
    """A function that starts threads may batch in them."""
    watch = Watch()

    def leaf(value: int) -> int:
        with watch:
            return value

    def outer(value: int) -> int:
        import contextvars

        outputs: list[int] = []
        threads = [
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(lambda: outputs.extend(RunnableLambda(leaf).batch([value] * 2)),),
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(outputs)

    for cap in (2, 5, None):
        with all_slots_come_back():
            outputs = await RunnableLambda(outer).abatch(range(4), config(max_concurrency=cap))
        assert outputs == [6 * value for value in range(4)]


async def test_threads_function_may_raise_stop_iteration() -> None:
    """A function may raise stop iteration."""

    def stop(_: object) -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await RunnableLambda(stop).abatch([1])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_threads_interrupt_raised_by_a_function_ends_the_run(kind: type[BaseException]) -> None:
    """An interrupt raised by a function ends the run."""
    watch = Watch()

    def interrupt(value: int) -> int:
        with watch:
            if value == 3:
                raise kind
            return value

    with pytest.raises(kind):
        await RunnableLambda(interrupt).abatch(range(1000), config(max_concurrency=2), return_exceptions=True)
    assert watch.active == 0
    assert watch.entered < 1000


def test_threads_invoke_of_functions_alone_stays_in_the_calling_thread() -> None:
    """Invoke of functions alone stays in the calling thread."""
    chain = RunnableLambda(lambda _: threading.get_ident()) | (lambda ident: (ident, threading.get_ident()))
    assert chain.invoke(None) == (threading.get_ident(),) * 2


def test_threads_invoke_sets_nothing_in_the_callers_context() -> None:
    """Invoke sets nothing in the callers context."""

    def mark(_: object) -> str:
        before = variable.get()
        variable.set("inside")
        return before

    def main() -> None:
        variable.set("caller")
        assert RunnableLambda(mark).invoke(None) == "caller"
        assert RunnableLambda(mark).batch([None] * 3) == ["caller"] * 3
        assert variable.get() == "caller"

    in_thread(main)


async def test_threads_call_in_thread_awaits_what_the_function_returns_on_the_loop() -> None:
    """A plain wrapper of an async function is one more way to be async."""
    threads: list[int] = []

    async def work(value: int) -> int:
        threads.append(threading.get_ident())
        await pause(1)
        return value + 1

    class Step(Runnable[int, int]):
        def invoke(self, input: int, config: Any = None, **_: Any) -> Any:  # noqa: A002
            return work(input)

    class Awaitable:
        def __await__(self) -> Any:
            return work(1).__await__()

    steps: list[Any] = [
        RunnableLambda(lambda value: work(value)),  # noqa: PLW0108
        RunnableLambda(lambda _value: Awaitable()),
        Step(),
        Step() | RunnableLambda(lambda value: value),
    ]
    for step in steps:
        assert await step.abatch([1, 1]) == [2, 2]
        assert await step.ainvoke(1) == 2
        assert set(threads) == {threading.get_ident()}
        assert await anyio.to_thread.run_sync(step.invoke, 1) == 2
        assert step.batch([1]) == [2]
        assert RunnableLambda(lambda value, step=step: step.invoke(value)).batch([1]) == [2]
        threads.clear()


async def test_threads_call_in_thread_that_is_cancelled_leaves_no_coroutine_behind(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """A coroutine that is never awaited would be a warning."""
    begun, go = anyio.Event(), threading.Event()
    loop = LoopHandle.current()

    async def work() -> None:
        raise AssertionError

    def function(value: int) -> Any:
        loop.call(begun.set)
        go.wait(10)
        return work()

    async with anyio.create_task_group() as group:
        group.start_soon(RunnableLambda(function).ainvoke, 1)
        await begun.wait()
        group.cancel_scope.cancel()
        go.set()
    gc.collect()
    assert not [str(warning.message) for warning in recwarn if "never awaited" in str(warning.message)]
