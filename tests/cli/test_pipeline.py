"""Rows in memory: no more than needed, and those that failed take no more than others."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import anyio
import pytest

from batchrt import RunnableLambda
from batchrt.cli import pipeline as pipeline_module
from batchrt.cli.counts import Counts
from batchrt.cli.pipeline import AnyRow, Entry, Feed, without_traces
from batchrt.files import Row


class Values(dict[str, str]):
    """Can be referred to weakly."""


def plain() -> None:
    raise ValueError("no")


def caused() -> None:
    try:
        plain()
    except ValueError as error:
        raise KeyError("no") from error


def in_context() -> None:
    try:
        plain()
    except ValueError:
        raise KeyError("no")  # noqa: B904


def grouped() -> None:
    errors: list[Exception] = []
    for function in (plain, caused):
        try:
            function()
        except (ValueError, KeyError) as error:
            errors.append(error)
    raise ExceptionGroup("no", errors)


def named() -> None:
    error = ValueError("no")
    kept = error  # a frame that holds its own error
    raise kept


@pytest.mark.parametrize("function", [plain, caused, in_context, grouped, named])
def test_pipeline_entries_that_failed_are_let_go_of(function: Callable[[], None]) -> None:
    """Without a garbage collection."""

    def fail() -> weakref.ref[Values]:
        values = Values(text="x")
        row, entries = Row(1, 1, values), []

        def call(_row: Row) -> None:
            function()

        try:
            call(row)
        except Exception as error:
            entries.append(Entry(row, error=without_traces(error)))
        assert entries[0].error is not None
        return weakref.ref(values)

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def test_pipeline_errors_of_entries_keep_their_message() -> None:
    """A chain that bites its tail is no matter."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert without_traces(first) is first
    assert str(first) == "a"
    assert first.__cause__ is None


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
    monkeypatch.setattr(pipeline_module, "_HEAVY", 100)
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
