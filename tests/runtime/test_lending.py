"""Lending: the slot of a leaf goes to the work that it waits for, also on an event loop of its own."""

from __future__ import annotations

import threading

import anyio
import pytest

from batchrt import RunnableLambda
from batchrt.runtime.lending import lending
from batchrt.runtime.strand import current_strand
from tests.runtime.harness import all_slots_come_back, config, pause, until

pytestmark = pytest.mark.anyio


async def test_lending_from_another_loop_is_watched_until_it_ends() -> None:
    """The loop is told if the item is cancelled meanwhile; nothing stays with the strand."""
    watched: list[int] = []

    def count() -> None:
        strand = current_strand()
        assert strand is not None
        watched.append(len(strand._watched or ()))

    async def nested() -> None:
        async with lending():
            count()

    def function(value: int) -> int:
        anyio.run(nested)
        count()
        return value

    with all_slots_come_back():
        assert await RunnableLambda(function).abatch([1, 2], config(max_concurrency=1)) == [1, 2]
    assert watched == [1, 0, 1, 0]


async def test_lending_from_another_loop_raises_a_cancellation_while_it_takes_the_slot_back() -> None:
    """Another item has the slot by then; no code after the block runs in the cancelled scope."""
    begun, released = threading.Event(), threading.Event()
    events: list[str] = []

    async def release(scope: anyio.CancelScope) -> None:
        await until(lambda: scope.cancel_called)
        await pause(10)
        released.set()

    async def nested() -> None:
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as group:
            group.start_soon(release, scope)
            with scope:
                async with lending(newcomers=True):
                    await until(begun.is_set)
                    scope.deadline = anyio.current_time() + 0.02
                events.append("went on")
            events.append("cancelled" if scope.cancelled_caught else "not cancelled")

    def blocking() -> None:
        anyio.run(nested)

    async def item(value: int) -> int:
        if value == 0:
            await RunnableLambda(lambda _: blocking()).ainvoke(0)
        else:
            begun.set()
            await until(released.is_set)
        return value

    with all_slots_come_back():
        assert await RunnableLambda(item).abatch([0, 1], config(max_concurrency=1)) == [0, 1]
    assert events == ["cancelled"]
