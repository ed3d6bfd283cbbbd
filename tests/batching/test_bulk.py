"""Bulk: complete inputs packed into lists, and lists of async inputs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import anyio

from batchrt import SpendingLimitError
from batchrt.batching.bulk import PATIENCE, Bulk, ListInput
from batchrt.batching.list_call import Limits, ListCall, Split
from batchrt.runtime.batch import Job, collect
from batchrt.runtime.strand import Strand
from tests.runtime.harness import config, on_trio


def list_call(size: int | None = None, cost: float | None = None) -> ListCall:
    """Return a call for lists of numbers that cost as much as they are."""

    async def call(values: list[int], strand: Strand) -> Sequence[int]:
        raise NotImplementedError

    return ListCall(name="lists", call=call, limits=lambda: Limits(size, cost), cost=float)


def bulk(call: ListCall) -> Bulk:
    return Bulk(call, config(), lambda *outcome: None, fail_fast=False, parent=None)


def arrivals(call: ListCall, source: AsyncIterator[int]) -> list[tuple[float, list[int]]]:
    """Take lists of `source` until it ends; return when each was there, in virtual seconds."""
    taken: list[tuple[float, list[int]]] = []

    async def main() -> None:
        lists = bulk(call).pack(source)
        assert isinstance(lists, ListInput)
        async with anyio.create_task_group() as group:
            group.start_soon(lists.run)
            start = anyio.current_time()
            try:
                while True:
                    values = (await lists.peek()).inputs.values
                    lists.take()
                    taken.append((anyio.current_time() - start, values))
            except StopAsyncIteration:
                await lists.end()

    on_trio(main)
    return taken


async def slow(*values: int, then: float = 100.0, last: int = 9) -> AsyncIterator[int]:
    """Yield `values` at once and `last` after `then` seconds."""
    for value in values:
        yield value
    await anyio.sleep(then)
    yield last


def test_bulk_list_of_async_inputs_waits_a_second_for_more() -> None:
    """From its first input on, whether the list is new or the rest of a full one."""
    assert arrivals(list_call(4), slow(1, 2)) == [(PATIENCE, [1, 2]), (100, [9])]
    assert arrivals(list_call(4, cost=6), slow(3, 3, 3, 3)) == [(0, [3, 3]), (PATIENCE, [3, 3]), (100, [9])]


def test_bulk_full_list_of_async_inputs_does_not_wait() -> None:
    """The number of inputs tells; a list with room by cost waits for more."""
    assert arrivals(list_call(2), slow(1, 2)) == [(0, [1, 2]), (100, [9])]


def test_bulk_counts_inputs_of_a_list_without_an_outcome() -> None:
    """Copies of a value count too; a list that was not begun has no such inputs, nor one that ended."""
    counts: list[int] = []

    async def call(values: list[int], strand: Strand) -> Sequence[int]:
        counts.extend(lists.unsettled(index) for index in (0, 1))
        return values

    lists = bulk(ListCall(name="lists", call=call, key=lambda value: value))

    async def main() -> None:
        await collect(Job.of(lists.step, lists.pack([1, 2, 1]), config()), return_exceptions=False)

    on_trio(main)
    assert counts == [3, 0]
    assert lists.unsettled(0) == 0
    assert lists.end_list(0, None) == 3
    assert lists.unsettled(0) == 0


def test_bulk_spending_limit_is_the_error_of_inputs_under_way_and_no_failure() -> None:
    """Also with `fail_fast`: it ends the run, and the inputs of its list were begun."""
    limit = SpendingLimitError("reached", limit="max_cost", tokens=0, cost=1.0, started=False)
    put: list[Exception | None] = []

    async def call(values: list[int], strand: Strand) -> Sequence[int]:
        raise limit

    lists = Bulk(
        ListCall(name="lists", call=call, split=lambda _: Split.NEVER),
        config(),
        lambda item, output, error: put.append(error),
        fail_fast=True,
        parent=None,
    )

    async def main() -> None:
        await collect(Job.of(lists.step, lists.pack([1, 2]), config()), return_exceptions=False)

    on_trio(main)
    assert put == [limit, limit]
    assert lists.ended is limit
    assert limit.started
