"""Reaching a loop from outside, and telling whether a cancellation is one."""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context
from typing import Any

import anyio
import anyio.to_thread
import pytest

from batchrt.runtime.event_loop import Alarm, LoopHandle, Signal, cancellation_is_real, running_loop
from tests.limits.quotas import BACKENDS, virtually
from tests.runtime.harness import in_thread, output_of, pause

pytestmark = pytest.mark.anyio


async def test_event_loop_call_from_the_loops_own_thread_is_made_at_once() -> None:
    """A call from the loops own thread is made at once."""
    called: list[int] = []
    assert LoopHandle.current().call(lambda: called.append(threading.get_ident()))
    assert called == [threading.get_ident()]


async def test_event_loop_call_from_another_thread_is_made_on_the_loop() -> None:
    """A call from another thread is made on the loop."""
    loop, called = LoopHandle.current(), anyio.Event()
    assert await anyio.to_thread.run_sync(loop.call, called.set)
    await called.wait()
    assert loop.here()
    assert not await anyio.to_thread.run_sync(loop.here)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_event_loop_call_to_a_loop_that_has_ended_says_so(backend: str) -> None:
    """A call to a loop that has ended says so."""

    async def main() -> LoopHandle:
        return LoopHandle.current()

    loop = in_thread(lambda: anyio.run(main, backend=backend))
    called: list[bool] = []
    assert not loop.call(lambda: called.append(True))
    assert called == []


async def test_event_loop_handles_on_one_loop_are_the_same() -> None:
    """Handles on one loop are the same."""
    loop = LoopHandle.current()
    assert loop.same(LoopHandle.current())
    elsewhere = await anyio.to_thread.run_sync(lambda: anyio.run(_current))
    assert not loop.same(elsewhere)


async def _current() -> LoopHandle:
    return LoopHandle.current()


async def test_event_loop_started_task_belongs_to_no_callers_scope() -> None:
    """A started task belongs to no callers scope."""
    loop, go, ended = LoopHandle.current(), anyio.Event(), anyio.Event()
    seen: list[str] = []

    async def work() -> None:
        await go.wait()
        seen.append("worked")

    with anyio.CancelScope() as scope:  # noqa: ASYNC100  nothing of it is awaited here
        task = loop.start(work, copy_context(), "work", ended.set)
        scope.cancel()
    go.set()
    await ended.wait()
    assert seen == ["worked"]
    assert task is not None


def test_event_loop_end_of_a_task_that_never_began_is_told() -> None:
    """The teardown of asyncio cancels what was started in its last round before its first step."""
    ended: list[bool] = []

    async def never() -> None:
        ended.append(False)

    async def main() -> None:
        loop, context = LoopHandle.current(), copy_context()
        asyncio.get_running_loop().call_soon(
            lambda: loop.start(never, context, "never", lambda: ended.append(True))
        )

    asyncio.run(main())
    assert ended == [True]


async def test_event_loop_signal_set_before_it_is_waited_for_is_not_missed() -> None:
    """A signal set before it is waited for is not missed."""
    signal = Signal()
    signal.set()
    signal.set()
    await signal.wait()


async def test_event_loop_signal_may_be_set_from_another_thread() -> None:
    """A signal may be set from another thread."""
    signal = Signal()
    async with anyio.create_task_group() as group:
        group.start_soon(signal.wait)
        await pause()
        await anyio.to_thread.run_sync(signal.set)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_event_loop_signal_of_a_loop_that_has_ended_may_be_set(backend: str) -> None:
    """A signal of a loop that has ended may be set."""

    async def main() -> Signal:
        return Signal()

    in_thread(lambda: anyio.run(main, backend=backend)).set()


@pytest.mark.parametrize("backend", BACKENDS)
def test_event_loop_alarm_goes_off_once_when_its_moment_has_come(backend: str) -> None:
    """And again if it is set again, also by what it calls."""
    rung: list[float] = []

    async def main() -> None:
        def ring() -> None:
            rung.append(anyio.current_time() - began)
            if len(rung) == 1:
                alarm.set(anyio.current_time() + 5)

        alarm = Alarm(ring)
        began = anyio.current_time()
        alarm.set(began + 10)
        await anyio.sleep(100)
        assert rung == pytest.approx([10, 15])
        assert alarm.when == float("inf")
        alarm.set(began + 120)
        await anyio.sleep(100)
        assert rung == pytest.approx([10, 15, 120])

    virtually(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_event_loop_alarm_has_one_moment(backend: str) -> None:
    """An earlier one, a later one, or none, takes the place of the one before."""
    rung: list[float] = []

    async def main() -> None:
        alarm = Alarm(lambda: rung.append(anyio.current_time() - began))
        began = anyio.current_time()
        for when in (50, 20, 20, 30):
            alarm.set(began + when)
            await anyio.sleep(1)
        await anyio.sleep(60)
        assert rung == pytest.approx([30])
        alarm.set(began + 100)
        await anyio.sleep(1)
        alarm.set(float("inf"))
        await anyio.sleep(100)
        assert len(rung) == 1
        alarm.set(anyio.current_time() - 5)
        await anyio.sleep(0.1)
        assert len(rung) == 2, "what has passed is due at once"

    virtually(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_event_loop_alarm_that_was_cleared_leaves_nothing_on_the_loop(backend: str) -> None:
    """Twice is no mistake, and it may be set anew right away."""
    rung: list[float] = []

    async def main() -> None:
        alarm = Alarm(lambda: rung.append(anyio.current_time() - began))
        began = anyio.current_time()
        before = len(anyio.get_running_tasks())
        alarm.set(began + 10)
        alarm.clear()
        alarm.clear()
        await pause(10)
        assert len(anyio.get_running_tasks()) == before
        alarm.set(began + 20)
        alarm.clear()
        alarm.set(began + 30)
        await anyio.sleep(100)
        assert rung == pytest.approx([30])
        alarm.clear()
        await pause(10)
        assert len(anyio.get_running_tasks()) == before

    virtually(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_event_loop_loop_may_end_with_an_alarm_set(backend: str) -> None:
    """The alarm does not ring."""
    rung: list[bool] = []

    async def main() -> None:
        Alarm(lambda: rung.append(True)).set(anyio.current_time() + 10)
        await pause()

    virtually(backend, main)
    assert not rung


async def test_event_loop_there_is_a_running_loop_here_and_none_in_a_thread() -> None:
    """There is a running loop here and none in a thread."""
    assert running_loop() is not None
    assert await anyio.to_thread.run_sync(running_loop) is None


async def test_event_loop_cancelled_scope_is_a_real_cancellation() -> None:
    """A cancelled scope is a real cancellation."""
    seen: list[bool] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            seen.append(cancellation_is_real())
            raise
    assert seen == [True]


def test_event_loop_asyncios_own_cancel_is_a_real_cancellation_and_a_raised_one_is_not() -> None:
    """Asyncios own cancel is a real cancellation and a raised one is not."""
    seen: list[bool] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(cancellation_is_real())
            raise

    async def main() -> None:
        task: asyncio.Task[Any] = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            seen.append(cancellation_is_real())

    asyncio.run(main())
    assert seen == [True, False]


def test_event_loop_loop_that_ends_while_workers_start_says_nothing() -> None:
    """Leaving an `async for` early as the last thing of a program gives no warning."""
    assert (
        output_of(
            """
        import asyncio, gc, warnings
        from batchrt import RunnableLambda

        warnings.simplefilter("always")

        async def leaf(value):
            return value

        async def main():
            async for _ in RunnableLambda(leaf).abatch_iter(range(1000)):
                break

        asyncio.run(main())
        gc.collect()
        print("ended")
        """
        )
        == "ended"
    )
