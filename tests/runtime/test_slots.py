"""Promise 1's counter: first come first served, and no slot is lost when a waiter goes away."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from batchrt import RunnableLambda
from batchrt.runtime.slots import LentSlots, Slots, Waiter
from tests.runtime.harness import config, in_thread, pause

pytestmark = pytest.mark.anyio


def test_slots_there_are_as_many_slots_as_were_said() -> None:
    """There are as many slots as were said."""
    slots = Slots(2)
    assert slots.try_take()
    assert slots.try_take()
    assert not slots.try_take()
    slots.give()
    assert slots.free == 1
    assert slots.try_take()


def test_slots_none_is_without_end() -> None:
    """None is without end."""
    slots = Slots(None)
    assert all(slots.try_take() for _ in range(1000))
    assert slots.free == math.inf
    assert slots.limit is None


def test_slots_limit_is_the_tightest_of_all_levels() -> None:
    """The limit is the tightest of all levels."""
    outer = Slots(3)
    assert Slots(5, outer).limit == 3
    assert Slots(2, outer).limit == 2
    assert Slots(4, Slots(None)).limit == 4
    assert Slots(5, outer).free == 3


def test_slots_slot_here_is_a_slot_there() -> None:
    """A slot here is a slot there."""
    outer = Slots(1)
    inner = Slots(2, outer)
    assert inner.try_take()
    assert outer.free == 0
    assert not inner.try_take()
    inner.give()
    assert (inner.free, outer.free) == (1, 1)
    assert inner._free == 2


def test_slots_overdrawn_slot_is_a_debt() -> None:
    """An overdrawn slot is a debt."""
    slots = Slots(1)
    slots.take_now()
    slots.take_now()
    slots.give()
    assert not slots.try_take()
    slots.give()
    assert slots.try_take()


async def test_slots_longest_waiter_is_served_first() -> None:
    """The longest waiter is served first."""
    slots, order = Slots(1), []
    assert slots.try_take()

    async def wait(name: int) -> None:
        assert await slots.take()
        order.append(name)
        await pause(1)
        slots.give()

    async with anyio.create_task_group() as group:
        for name in range(5):
            group.start_soon(wait, name)
            await pause()
        slots.give()
    assert order == list(range(5))
    assert slots.free == 1


async def test_slots_what_is_under_way_goes_before_newcomers() -> None:
    """What is under way goes before newcomers."""
    slots, order = Slots(1), []
    assert slots.try_take()

    async def wait(name: str, *, newcomer: bool) -> None:
        assert await slots.take(newcomer=newcomer)
        order.append(name)
        slots.give()

    async with anyio.create_task_group() as group:
        for name, newcomer in (("new", True), ("old", False)):

            async def start(name: str = name, newcomer: bool = newcomer) -> None:
                await wait(name, newcomer=newcomer)

            group.start_soon(start)
            await pause()
        assert slots.wanted()
        slots.give()
    assert order == ["old", "new"]


async def test_slots_slot_lent_to_nested_work_is_not_for_newcomers_until_it_is_offered() -> None:
    """A slot lent to nested work is not for newcomers until it is offered."""
    slots, got = Slots(1), anyio.Event()
    assert slots.try_take()

    async def newcomer() -> None:
        await slots.take(newcomer=True)
        got.set()

    async with anyio.create_task_group() as group:
        group.start_soon(newcomer)
        await pause()
        slots.give(newcomers=False)
        await pause()
        assert not got.is_set()
        slots.offer()
        await got.wait()


async def test_slots_offer_lets_newcomers_of_the_outer_slots_in() -> None:
    """A slot that nested work kept for the leaf around it is a slot of both levels."""
    outer = Slots(1)
    inner = Slots(None, outer)
    assert inner.try_take()
    async with anyio.create_task_group() as group:
        group.start_soon(partial(outer.take, newcomer=True))
        await pause()
        inner.give(newcomers=False)
        await pause()
        assert outer.free == 1
        inner.offer()
        assert outer.free == 0


async def test_slots_offer_lets_as_many_newcomers_in_as_there_are_slots() -> None:
    """Offer lets as many newcomers in as there are slots."""
    slots = Slots(3)
    assert all(slots.try_take() for _ in range(3))
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(partial(slots.take, newcomer=True))
        await pause()
        for _ in range(3):
            slots.give(newcomers=False)
        assert slots.free == 3
        slots.offer()
    assert slots.free == 0


async def test_slots_are_never_waited_for_by_code_that_interrupts_them() -> None:
    """A finalizer or a signal handler may run inside of any method, in its thread: nothing is lost."""
    slots, order = Slots(1, Slots(1)), []
    assert slots.try_take()

    async def wait() -> None:
        assert await slots.take()
        order.append("waiter")

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await pause()
        with slots._lock:
            # As from the frame of a method that was interrupted here.
            assert not slots.try_take()
            slots.take_now()
            slots.give()
            slots.give()
            slots.offer()
            assert slots.wanted()
            assert slots._free == 0
        slots.offer()
    assert order == ["waiter"]
    assert slots.free == 0
    slots.give()
    assert slots.free == 1


class InterruptedLock:
    """A lock that runs a function of the user's once, before its first release."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = interrupt

    def acquire(self, *, blocking: bool) -> bool:
        return self._lock.acquire(blocking=blocking)

    def release(self) -> None:
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            interrupt()
        self._lock.release()


@pytest.mark.parametrize("method", ["try_take", "give", "offer"])
def test_slots_changes_of_code_that_interrupts_a_method_are_made_by_it(method: str) -> None:
    """As soon as it has released the lock: no later call has to come."""
    slots: Any = Slots(5)
    for _ in range(4):
        assert slots.try_take()

    def finalizer() -> None:
        slots.give()
        slots.give()

    slots._lock = InterruptedLock(finalizer)
    getattr(slots, method)()
    assert slots.free == 3 + {"try_take": -1, "give": 1, "offer": 0}[method]


async def test_slots_waiters_are_not_overtaken() -> None:
    """A slot that is given back goes to the waiter, not to `try_take`."""
    slots = Slots(1)
    assert slots.try_take()
    async with anyio.create_task_group() as group:
        group.start_soon(slots.take)
        await pause()
        slots.give()
        assert not slots.try_take()


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("given_before", [False, True])
async def test_slots_cancelled_waiter_leaves_its_slot_to_others(levels: int, given_before: bool) -> None:
    """Also when the slot was granted to it in the very moment of the cancellation."""
    outer = slots = Slots(1)
    for _ in range(levels - 1):
        slots = Slots(1, slots)
    assert outer.try_take()

    async def wait() -> None:
        await slots.take()
        slots.give()

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await pause()
        if given_before:
            outer.give()
        group.cancel_scope.cancel()
    if not given_before:
        outer.give()
    assert slots.free == 1
    assert slots.try_take()


async def test_slots_withdrawn_waiter_wakes_without_a_slot() -> None:
    """A withdrawn waiter wakes without a slot."""
    slots, waiter, answers = Slots(1, Slots(1)), Waiter(), []
    assert slots.try_take()

    async def wait() -> None:
        answers.append(await slots.take(waiter))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await pause()
        assert waiter.withdraw()
    assert answers == [False]
    slots.give()
    assert slots.free == 1


async def test_slots_waiter_withdrawn_before_it_waits_gets_nothing() -> None:
    """A waiter withdrawn before it waits gets nothing."""
    slots, waiter = Slots(1), Waiter()
    assert waiter.withdraw()
    assert not await slots.take(waiter)
    assert slots.free == 1


async def test_slots_waiter_that_is_withdrawn_and_cancelled_at_once_gives_nothing_back() -> None:
    """Nor twice, if it is withdrawn twice: it never had a slot."""
    slots, waiter = Slots(1), Waiter()
    assert slots.try_take()
    async with anyio.create_task_group() as group:
        group.start_soon(slots.take, waiter)
        await pause()
        assert waiter.withdraw()
        assert waiter.withdraw()
        group.cancel_scope.cancel()
    assert slots.free == 0


async def test_slots_granted_slot_cannot_be_withdrawn() -> None:
    """A granted slot cannot be withdrawn."""
    slots, waiter = Slots(1), Waiter()
    assert await slots.take(waiter)
    assert not waiter.withdraw()
    slots.give()


async def test_slots_slot_may_be_given_from_another_thread() -> None:
    """A slot may be given from another thread."""
    slots = Slots(1)
    assert slots.try_take()
    async with anyio.create_task_group() as group:
        group.start_soon(slots.take)
        await pause()
        await anyio.to_thread.run_sync(slots.give)
    assert slots.free == 0


def test_slots_threads_and_loops_that_fight_for_slots_never_hold_too_many() -> None:
    """Threads and loops that fight for slots never hold too many."""
    slots, active, lock, peaks = Slots(2), [0], threading.Lock(), []

    async def work() -> None:
        for _ in range(50):
            if not slots.try_take():
                await slots.take()
            with lock:
                active[0] += 1
                peaks.append(active[0])
            await pause(1)
            with lock:
                active[0] -= 1
            slots.give()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(work)

    def run_all() -> None:
        threads = [threading.Thread(target=anyio.run, args=(main,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    in_thread(run_all)
    assert max(peaks) <= 2
    assert slots.free == 2


@pytest.mark.parametrize("how", ["abatch", "ainvoke"])
@pytest.mark.parametrize("cap", [1, 2])
def test_slots_of_a_loop_that_was_closed_with_tasks_in_it_come_back(how: str, cap: int) -> None:
    """A function may start a loop of its own for nested work, and not wait for its end."""

    async def inner(value: int) -> int:
        await anyio.sleep_forever()
        return value

    nested: RunnableLambda[Any, Any] = RunnableLambda(inner)

    def leaf(value: int) -> int:
        async def main() -> None:
            for _ in range(3):
                work = nested.abatch(range(3)) if how == "abatch" else nested.ainvoke(1)
                left.append(asyncio.get_running_loop().create_task(work))
            await pause()

        left: list[asyncio.Task[Any]] = []
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        return value

    chain = RunnableLambda(leaf)
    assert in_thread(partial(chain.batch, range(6), config(max_concurrency=cap))) == list(range(6))


@pytest.mark.parametrize("granted", [True, False])
def test_slots_granted_to_a_loop_that_closes_first_come_back_once(*, granted: bool) -> None:
    """The task is told of its slot, but never goes on; or it waits for one that it will never be told of."""
    outer = Slots(1)
    lent = LentSlots(None, outer)
    assert outer.try_take()
    loop = asyncio.new_event_loop()

    async def begin() -> asyncio.Task[bool]:
        task = loop.create_task(lent.take())
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(begin())
    if granted:
        outer.give()
        assert outer.free == 0, "it is granted, and the loop does not run any more"
    loop.close()
    lent.take_back()
    if not granted:
        outer.give()
    assert outer.free == 1
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()
    assert outer.free == 1
    assert outer.try_take()
    assert not outer.try_take()


def test_slots_lent_slots_taken_back_are_not_given_back_twice() -> None:
    """A task that unwinds after its loop's slots were taken back gives none; slots of later work count."""
    outer = Slots(3)
    lent = LentSlots(None, outer)
    assert lent.try_take()
    lent.take_now()
    assert outer.free == 1
    lent.take_back()
    assert outer.free == 3
    lent.give()
    lent.give()
    assert outer.free == 3
    assert lent.try_take()
    assert outer.free == 2
    lent.give()
    assert outer.free == 3


def test_slots_of_a_level_inside_lent_slots_come_back_with_them() -> None:
    """A task that waits at the outer level has one of each level in between."""
    outer = Slots(1)
    lent = LentSlots(2, outer)
    inner = Slots(1, lent)
    assert outer.try_take()
    loop = asyncio.new_event_loop()

    async def begin() -> asyncio.Task[bool]:
        task = loop.create_task(inner.take())
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(begin())
    assert (inner._free, lent._free) == (0, 1)
    loop.close()
    lent.take_back()
    outer.give()
    assert (inner.free, outer.free) == (1, 1)
    assert inner.try_take()
    assert outer.free == 0
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()


def test_slots_withheld_are_not_given_out() -> None:
    """Slots that are withheld while they are taken come back before another is taken."""
    slots = Slots(3)
    assert slots.try_take()
    assert slots.try_take()
    slots.withhold(2)
    assert (slots.taken, slots.free) == (2, -1)
    assert slots.wanted(), "the strand that ends next keeps no slot"
    slots.give()
    assert not slots.try_take()
    assert not slots.wanted()
    slots.give()
    assert slots.try_take()
    slots.withhold(0)
    assert (slots.taken, slots.free) == (1, 2)


def test_slots_that_are_no_longer_withheld_go_to_the_waiter() -> None:
    """A strand that waits gets one at once."""

    async def main() -> None:
        slots = Slots(1)
        slots.withhold(1)
        with anyio.move_on_after(0.01):
            await slots.take()
        assert slots.taken == 0
        async with anyio.create_task_group() as group:
            group.start_soon(slots.take)
            await anyio.wait_all_tasks_blocked()
            slots.withhold(0)
        assert slots.taken == 1

    anyio.run(main)
