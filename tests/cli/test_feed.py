"""Rows in memory: no more than needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import anyio
import pytest

from batchrt import RunnableLambda
from batchrt.cli import feed as feed_module
from batchrt.cli.counts import Counts
from batchrt.cli.feed import AnyRow, Feed
from batchrt.files import Row


def rows(count: int, size: int) -> Any:
    """Give the rows of a file as a `Source` does."""

    class Rows(Iterator[Row]):
        fraction_read = 0.5

        def __init__(self) -> None:
            self._numbers = iter(range(count))

        def __next__(self) -> Row:
            number = next(self._numbers)
            return Row(number + 1, number + 2, {"n": number}, size=size)

    return Rows()


def test_feed_keeps_rows_until_they_are_taken() -> None:
    """By the index of their outcomes, of which some may be left out, and no more than the limit."""
    feed = Feed(rows(10, 1), 5, Counts())
    inputs = iter(cast("Iterator[AnyRow]", feed.inputs()))
    assert [next(inputs).number for _ in range(4)] == [1, 2, 3, 4]
    assert feed.counts.started == 4
    assert feed.row(2).number == 3
    assert feed.take(0).number == 1
    assert feed.row(2).number == 3
    assert feed.take(2).number == 3
    assert feed.take(3).number == 4
    assert [row.number for row in inputs] == [5]


@pytest.mark.anyio
async def test_feed_of_large_rows_has_no_more_begun_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a row stalls that others wait for; all of them go on once it has ended."""
    monkeypatch.setattr(feed_module, "_HEAVY", 100)
    feed, gate = Feed(rows(50, 30), None, Counts()), anyio.Event()

    async def ask(row: AnyRow) -> int:
        if row.number == 1:
            await gate.wait()
        return row.number

    run = RunnableLambda(ask).arun_iter(feed.inputs(), {"max_concurrency": 3}, room=feed.has_room)
    done: list[int] = []

    async def consume() -> None:
        async for outcome in run:
            done.append(feed.take(outcome.index).number)

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        assert feed.counts.started == 4
        assert not feed.has_room()
        gate.set()
    assert done == [*range(1, 51)]
    assert feed.has_room()
