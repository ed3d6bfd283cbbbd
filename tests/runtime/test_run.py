"""Strands: one slot at most, lent while nested work runs; what belongs to a run and what does not."""

from __future__ import annotations

import contextvars
import math
import os

import anyio
import anyio.to_thread
import pytest

from batchrt import RunnableLambda, Usage
from batchrt.runtime.item import Item
from batchrt.runtime.run import UNCAPPED_THREADS, Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.strand import Strand, current_strand, strand_context
from tests.runtime.harness import Watch, all_slots_come_back, config, pause

pytestmark = pytest.mark.anyio


def strand_on(slots: Slots, *, has_slot: bool = False) -> Strand:
    if has_slot:
        assert slots.try_take()
    return Strand(Run(slots), Item(0), config(), slots, has_slot=has_slot)


async def test_run_usage_reaches_every_item_that_a_call_is_nested_in() -> None:
    """Usage reaches every item that a call is nested in."""
    outer = Item(0)
    inner = Item(1, outer)
    inner.add_usage(Usage(1, 2, 3))
    inner.add_usage(Usage(1, 2, 3))
    assert inner.usage == outer.usage == Usage(2, 4, 6)


async def test_run_strand_takes_one_slot_however_often_it_asks() -> None:
    """A strand takes one slot however often it asks."""
    slots = Slots(2)
    strand = strand_on(slots)
    await strand.take()
    await strand.take()
    assert slots.free == 1
    strand.give()
    strand.give()
    assert slots.free == 2


async def test_run_closed_strand_is_not_current() -> None:
    """Work that a leaf left behind is not part of the item any more."""
    strand = strand_on(Slots(1))
    context = strand_context(strand)
    assert context.run(current_strand) is strand
    strand.close()
    assert context.run(current_strand) is None


async def test_run_forked_process_is_no_part_of_the_run() -> None:
    """A forked process is no part of the run."""
    strand = strand_on(Slots(1))
    strand.run.process = os.getpid() + 1
    assert strand_context(strand).run(current_strand) is None


async def test_run_strands_context_is_a_copy() -> None:
    """A strands context is a copy."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    context = strand_context(strand_on(Slots(1)))
    context.run(variable.set, "set")
    assert variable.get() == "unset"
    assert current_strand() is None


async def test_run_threads_are_bounded_by_the_slots_or_by_a_number() -> None:
    """Threads are bounded by the slots or by a number."""
    for slots, threads in (
        (Slots(None), UNCAPPED_THREADS),
        (Slots(500), math.inf),
        (Slots(None, Slots(500)), math.inf),
    ):
        limiter = Run(slots).threads
        assert limiter is not None
        assert limiter.total_tokens == threads


async def test_run_nested_runs_share_the_threads_of_their_loop() -> None:
    """Nested runs share the threads of their loop."""
    outer = Run(Slots(None))
    assert Run(Slots(None), parent=outer).threads is outer.threads
    elsewhere = await anyio.to_thread.run_sync(lambda: anyio.run(_run_under, outer))
    assert elsewhere.threads is not outer.threads


async def _run_under(outer: Run) -> Run:
    return Run(Slots(None), parent=outer)


async def test_run_section_is_one_for_all_items() -> None:
    """A section is one for all items."""
    run, slots, key = Run(Slots(5)), Slots(5), object()
    section = run.section(key, 2, slots)
    assert run.section(key, 2, slots) is section
    assert run.section(object(), 2, slots) is not section
    assert section.limit == 2


async def test_run_lending_gives_the_slot_up_and_takes_it_back() -> None:
    """Lending gives the slot up and takes it back."""
    slots = Slots(1)
    strand = strand_on(slots, has_slot=True)
    async with strand.lending(newcomers=False):
        assert slots.free == 1
    assert slots.free == 0
    strand.close()
    assert slots.free == 1


async def test_run_strand_without_a_slot_has_nothing_to_lend() -> None:
    """A strand without a slot has nothing to lend."""
    slots = Slots(1)
    strand = strand_on(slots)
    async with strand.lending(newcomers=False):
        assert slots.free == 1
    assert slots.free == 1
    assert not strand.has_slot


async def test_run_leaf_that_handles_an_error_of_nested_work_goes_on_with_a_slot() -> None:
    """A leaf that handles an error of nested work goes on with a slot."""
    slots = Slots(1)
    strand = strand_on(slots, has_slot=True)
    with pytest.raises(KeyError):
        async with strand.lending(newcomers=False):
            raise KeyError
    assert strand.has_slot
    assert slots.free == 0
    strand.close()


async def test_run_cancelled_leaf_unwinds_on_a_slot_that_is_overdrawn() -> None:
    """If it is the runtime that cancels it: then it does not go on."""
    slots = Slots(1)
    strand = strand_on(slots, has_slot=True)
    with anyio.CancelScope() as scope:
        strand.scopes = (scope,)
        async with strand.lending(newcomers=False):
            assert slots.try_take()  # the nested work has it, and somebody waits
            scope.cancel()
            await pause()
    assert slots._free == -1
    slots.give()
    assert not slots.try_take()
    strand.close()
    assert slots.free == 1


async def test_run_leaf_that_cancels_its_nested_work_waits_for_its_slot() -> None:
    """It may go on, and so must not without one; also if another error or no error came of the work."""
    slots, order = Slots(1), []
    strand = strand_on(slots, has_slot=True)
    assert slots.free == 0

    async def leaf() -> None:
        with anyio.CancelScope() as scope:
            async with strand.lending(newcomers=False):
                assert slots.try_take()
                scope.cancel()
                await pause()
        order.append("leaf")
        assert strand.has_slot

    async with anyio.create_task_group() as group:
        group.start_soon(leaf)
        await pause(10)
        order.append("other")
        slots.give()
    assert order == ["other", "leaf"]
    strand.close()
    assert slots.free == 1


async def test_run_leaf_that_is_cancelled_while_it_takes_its_slot_back_waits_for_it_too() -> None:
    """A leaf that is cancelled while it takes its slot back waits for it too."""
    slots, order = Slots(1), []
    strand = strand_on(slots, has_slot=True)

    async def leaf() -> None:
        with anyio.CancelScope() as scope:
            group.start_soon(cancel, scope)
            async with strand.lending(newcomers=False):
                assert slots.try_take()
        order.append("leaf")
        assert strand.has_slot

    async def cancel(scope: anyio.CancelScope) -> None:
        await pause()
        scope.cancel()
        await pause()
        order.append("other")
        slots.give()

    async with anyio.create_task_group() as group:
        group.start_soon(leaf)
    assert order == ["other", "leaf"]
    strand.close()
    assert slots.free == 1


async def test_run_leaf_in_debt_lends_what_it_owes() -> None:
    """At cap 1: nested work that it begins on an overdrawn slot would wait for it for ever."""
    slots = Slots(1)
    strand = strand_on(slots, has_slot=True)
    with anyio.CancelScope() as scope:
        strand.scopes = (scope,)
        async with strand.lending(newcomers=False):
            scope.cancel()
            await pause()
    assert slots.free == 0
    async with strand.lending(newcomers=False):
        assert slots.free == 1
    strand.close()
    assert slots.free == 1


async def test_run_last_of_several_nested_calls_takes_the_slot_back() -> None:
    """The last of several nested calls takes the slot back."""
    slots = Slots(1)
    strand = strand_on(slots, has_slot=True)
    async with strand.lending(newcomers=False):
        async with strand.lending(newcomers=False):
            assert slots.free == 1
        assert slots.free == 1
    assert slots.free == 0
    strand.close()


async def test_run_nested_call_begun_while_the_slot_is_taken_back_gets_it() -> None:
    """At cap 1: the leaf waits for the second call, so it must not sit on the slot."""
    watch, nested = Watch(), [0]
    ended = anyio.Event()

    async def inner(value: int) -> int:
        with watch:
            nested[0] += 1
            await pause(1)
        return value

    async def outer(value: int) -> int:
        if value:
            with watch:
                # Item 1 has the slot when item 0's first nested call has ended and wants it back.
                ended.set()
                await pause(10)
            return value
        async with anyio.create_task_group() as group:
            group.start_soon(RunnableLambda(inner).ainvoke, 1)
            await ended.wait()
            group.start_soon(RunnableLambda(inner).ainvoke, 2)
        return value

    with all_slots_come_back():
        assert await RunnableLambda(outer).abatch([0, 1], {"max_concurrency": 1}) == [0, 1]
    assert nested == [2]
    assert watch.peak == 1


async def test_run_take_back_that_is_overtaken_by_another_nested_call_gives_the_slot_on() -> None:
    """A take back that is overtaken by another nested call gives the slot on."""
    slots = Slots(1)
    strand = strand_on(slots, has_slot=True)
    second, leave = anyio.Event(), anyio.Event()

    async def first_call() -> None:
        async with strand.lending(newcomers=False):
            assert slots.try_take()  # an other item is quicker

    async def second_call() -> None:
        async with strand.lending(newcomers=False):
            second.set()
            await leave.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(first_call)
        await pause()
        group.start_soon(second_call)
        await second.wait()
        slots.give()
        await pause()
        assert slots.free == 1
        leave.set()
    assert strand.has_slot
    strand.close()
    assert slots.free == 1


async def test_run_standing_in_lends_the_strands_own_slot() -> None:
    """Standing in lends the strands own slot."""
    slots = Slots(1)
    strand = strand_on(slots, has_slot=True)
    with strand.standing_in() as own:
        assert own.slots.limit == 1
        assert own.slots.free == 0
        assert slots.free == 0
    strand.close()
    assert slots.free == 1


async def test_run_what_a_thread_waits_for_is_cancelled_now_and_from_now_on() -> None:
    """What a thread waits for is cancelled now and from now on."""
    strand, cancelled = strand_on(Slots(1)), []
    strand.enter_thread()
    with strand.watching(lambda: cancelled.append("first")):
        strand.cancel_nested()
    with strand.watching(lambda: cancelled.append("second")):
        assert cancelled == ["first", "second"]
    strand.leave_thread()
    strand.enter_thread()
    with strand.watching(lambda: cancelled.append("third")):
        assert cancelled == ["first", "second"]
