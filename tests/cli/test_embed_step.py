from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio

from batchrt.batching.list_call import Limits, ListCall
from batchrt.cli.embed_step import Lists, PipeLists, column_text, text_reader
from batchrt.cli.pipeline import Entry, Feed
from batchrt.errors import InputError
from batchrt.files import BadRow, Row
from batchrt.files.rows import bad_row
from tests import virtual


def row_error(row: Row | BadRow, problem: str, *, column: str | None = None) -> InputError:
    return bad_row("in.csv", row.number, row.line, problem, column=column).error


READ = text_reader(column_text(row_error, "t"), None)


def list_call(**limits: Any) -> ListCall:
    async def never(_texts: object, _strand: object) -> list[Any]:
        raise AssertionError

    return ListCall(name="x", call=never, limits=lambda: Limits(**limits), cost=len)


def row(number: int, text: str) -> Row:
    return Row(number, number + 1, {"t": text, "other": "x" * 1000})


def feed(*texts: str) -> Feed:
    return Feed(row(number, text) for number, text in enumerate(texts, 1))


class SlowFeed(AsyncIterator[Entry]):
    """Give texts; a number stands for so many seconds until the next one is there."""

    def __init__(self, *texts: str | float) -> None:
        self.entries: deque[Entry] = deque()
        self._texts = deque(texts)
        self._due = 0.0
        self._stopped = anyio.Event()

    async def __anext__(self) -> Entry:
        self._due = self._due or anyio.current_time()
        while self._texts and isinstance(self._texts[0], float):
            self._due += float(self._texts.popleft())
        with anyio.CancelScope(deadline=self._due):
            await self._stopped.wait()
        if self._stopped.is_set() or not self._texts:
            raise StopAsyncIteration
        entry = Entry(row(len(self._texts), str(self._texts.popleft())))
        self.entries.append(entry)
        return entry

    def stop(self) -> None:
        self._stopped.set()


def pipe_lists(slow: Any, **limits: Any) -> PipeLists:
    return PipeLists(slow, READ, list_call(**limits))


def on_mock_clock(function: Callable[[], Awaitable[Any]]) -> Any:
    return virtual.run(function, longest=math.inf)


def test_embed_step_lists_are_as_long_as_the_limits_allow() -> None:
    """By number and by cost."""
    found = [[text.text for text in texts] for texts in Lists(feed(*"abcde"), READ, list_call(size=2))]
    assert found == [["a", "b"], ["c", "d"], ["e"]]
    costly = Lists(feed("aaa", "b", "cc", "dddd", "e"), READ, list_call(cost=4))
    assert [[text.text for text in texts] for texts in costly] == [["aaa", "b"], ["cc"], ["dddd"], ["e"]]


def test_embed_step_limit_that_falls_holds_for_the_next_list() -> None:
    """A server may tell its limits meanwhile."""
    limits = [Limits(4), Limits(4), Limits(2), Limits(2), Limits(2)]
    call = replace(list_call(), limits=lambda: limits.pop(0))
    assert [len(texts) for texts in Lists(feed(*"abcdefghijk"), READ, call)] == [4, 4, 2, 1]


def test_embed_step_of_a_row_only_its_id_is_kept() -> None:
    """Thousands of rows wait for their lists."""
    [[text]] = Lists(feed("a"), READ, list_call())
    assert text.entry.row.values == {"id": 1}


def test_embed_step_rows_of_lists_are_known_until_they_are_taken_back() -> None:
    """In their order, and once."""
    rows = feed(*"abc")
    lists = Lists(rows, READ, list_call(size=2))
    first = next(lists)
    assert [*lists.under_way] == [first]
    assert [entry.row.number for entry in rows.entries] == [3]  # read ahead
    next(lists)
    assert not rows.entries
    assert len(lists.under_way) == 2


def test_embed_step_after_a_stop_nothing_is_given() -> None:
    """Not even rows that were read already."""
    lists = Lists(feed(*"abcde"), READ, list_call(size=2))
    next(lists)
    lists.stop()
    assert list(lists) == []


def test_embed_step_rows_of_a_pipe_wait_a_second_for_others() -> None:
    """A list that is full goes at once; one that is not when a second has passed."""

    async def main() -> list[tuple[float, str]]:
        slow = SlowFeed("a", "b", "c", "d", 0.5, "e", 3.0, "f", "g", 9.0)
        started, found = anyio.current_time(), []
        async for texts in pipe_lists(slow, size=3):
            found.append((anyio.current_time() - started, "".join(text.text for text in texts)))
        return found

    assert on_mock_clock(main) == [(0.0, "abc"), (1.0, "de"), (4.5, "fg")]


def test_embed_step_lists_of_a_pipe_are_packed_by_cost_too() -> None:
    """And the last one is not forgotten."""

    async def main() -> list[list[str]]:
        slow = SlowFeed("aaa", "b", "cc", "dddd", "e")
        return [[text.text for text in texts] async for texts in pipe_lists(slow, size=4, cost=4)]

    assert on_mock_clock(main) == [["aaa", "b"], ["cc"], ["dddd"], ["e"]]


def test_embed_step_pipe_that_is_stopped_ends_a_pending_anext() -> None:
    """They end at once."""

    async def main() -> float:
        lists = pipe_lists(SlowFeed("a", 1000.0, "b"), size=3)
        started = anyio.current_time()
        async with anyio.create_task_group() as group:

            async def stop() -> None:
                await anyio.sleep(0.25)
                lists.stop()

            group.start_soon(stop)
            assert [texts async for texts in lists] == []
        return anyio.current_time() - started

    assert on_mock_clock(main) == 0.25
