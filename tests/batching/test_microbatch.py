"""Micro-batching: lists of the items that meet at a step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from batchrt import ItemTimeoutError, RunnableLambda
from batchrt.batching.list_call import Limits, ListCall
from batchrt.batching.microbatch import list_step
from batchrt.runtime.batch import Job, collect
from batchrt.runtime.item import Item
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from tests.limits.quotas import BACKENDS, virtually
from tests.runtime.harness import config

on_both = pytest.mark.parametrize("backend", BACKENDS)


def meeting(
    send: Callable[[list[Any]], Awaitable[Sequence[Any]]], before: Step | None = None, **options: Any
) -> Step:
    """Return a step whose items come one by one to a call that sends them as lists."""

    async def call(values: list[Any], strand: Strand) -> Sequence[Any]:
        return await send(values)

    native = list_step(ListCall(name="lists", call=call, **options), "lists")

    async def arrive(value: Any, strand: Strand) -> Any:
        if before is not None:
            value = await before.call(value, strand)
        return await native.call(value, strand)

    return Step.of(arrive, [native])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@on_both
def test_microbatch_interrupt_in_a_list_ends_the_run_as_itself(
    backend: str, kind: type[BaseException]
) -> None:
    """After one call, although the list might be halved."""
    sizes: list[int] = []

    async def send(values: list[int]) -> Sequence[int]:
        sizes.append(len(values))
        raise kind

    async def main() -> None:
        with pytest.raises(kind):
            await collect(Job.of(meeting(send), range(4), config()), return_exceptions=True)

    virtually(backend, main)
    assert sizes == [4]


@on_both
def test_microbatch_last_item_of_a_list_ends_after_its_call(backend: str) -> None:
    """A list that no item waits for is cancelled, and nothing of it runs when the item has its outcome."""
    running = 0

    async def send(values: list[int]) -> Sequence[int]:
        nonlocal running
        running += 1
        try:
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
            running -= 1
        return values

    seen: list[tuple[Any, int]] = []

    def deliver(item: Item, output: Any, error: Exception | None) -> bool:
        seen.append((error, running))
        return True

    async def main() -> None:
        await Job.of(meeting(send), [1], config(timeout=1)).open(deliver, fail_fast=False).run()
        ((error, running_then),) = seen
        assert isinstance(error, ItemTimeoutError)
        assert running_then == 0

    virtually(backend, main)


@on_both
def test_microbatch_equal_values_are_taken_from_the_cache(backend: str) -> None:
    """Up to `remembered` bytes of results, also for items that arrive after the list has ended."""
    sent: list[list[int]] = []

    async def send(values: list[int]) -> Sequence[bytes]:
        sent.append(values)
        return [bytes(4) for _ in values]

    async def main() -> None:
        step = meeting(send, key=lambda value: value, remembered=8)
        await collect(Job.of(step, [1, 2, 1, 3, 3, 1], config(window=1)), return_exceptions=False)

    virtually(backend, main)
    assert sorted(value for values in sent for value in values) == [1, 2, 3]


@on_both
def test_microbatch_rest_of_a_full_list_waits_for_more(backend: str) -> None:
    """The cost of the values that were sent is subtracted from that of the queue."""
    sent: list[list[int]] = []

    async def send(values: list[int]) -> Sequence[int]:
        sent.append(values)
        return values

    async def late(value: int, strand: Strand) -> int:
        await anyio.sleep(0 if value == 4 else value)
        return value

    async def main() -> None:
        step = meeting(
            send, Step(late), limits=lambda: Limits(None, 6), cost=float, linger=20.0, max_linger=20.0
        )
        await collect(Job.of(step, [4, 4, 2, 10], config()), return_exceptions=False)

    virtually(backend, main)
    assert sent == [[4], [4, 2], [10]]


@on_both
def test_microbatch_cancelled_list_call_does_not_wait_for_its_slot(backend: str) -> None:
    """Its nested work gave the slot back, and another item has it: the call ends without one."""
    ended: list[tuple[int, float]] = []

    async def nested(value: int) -> None:
        await anyio.sleep(50)

    async def send(values: list[int]) -> Sequence[int]:
        await RunnableLambda(nested).abatch(values)
        return values

    native = meeting(send)

    async def step(value: int, strand: Strand) -> Any:
        if value == 1:
            return await native.call(value, strand)
        strand.give()
        await anyio.sleep(0.5)
        await strand.take()
        await anyio.sleep(100)
        return value

    def deliver(item: Item, output: Any, error: Exception | None) -> bool:
        ended.append((item.index, anyio.current_time()))
        return True

    async def main() -> None:
        start = anyio.current_time()
        configs = [config(max_concurrency=1, timeout=2), config(max_concurrency=1)]
        await Job.of(Step.of(step, [native]), [1, 2], configs).open(deliver, fail_fast=False).run()
        assert [(index, round(at - start)) for index, at in ended] == [(0, 2), (1, 102)]

    virtually(backend, main)
