from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from batchrt.files import ThreadedIterator

pytestmark = pytest.mark.anyio


async def test_threaded_iterator_values_come_whole_and_in_order() -> None:
    """However many more there are than the iterator holds."""
    assert [value async for value in ThreadedIterator(iter(range(5000)))] == list(range(5000))


async def test_threaded_iterator_value_is_there_as_soon_as_it_was_read() -> None:
    """Before the next one has come."""
    may_go_on = threading.Event()

    def values() -> Iterator[int]:
        yield 1
        may_go_on.wait()
        yield 2

    iterator = ThreadedIterator(values())
    assert await anext(iterator) == 1
    may_go_on.set()
    assert [value async for value in iterator] == [2]


async def test_threaded_iterator_no_more_is_read_ahead_than_there_is_room_for() -> None:
    """Memory is the window and not the pipe."""
    pulled: list[int] = []
    full = threading.Event()

    def values() -> Iterator[int]:
        for number in range(1000):
            pulled.append(number)
            if number == 257:  # one was taken, one is in the thread's hand
                full.set()
            yield number

    iterator = ThreadedIterator(values())
    assert await anext(iterator) == 0
    await anyio.to_thread.run_sync(full.wait)
    iterator.stop()
    assert len(pulled) == 258


async def test_threaded_iterator_error_comes_after_the_values_before_it() -> None:
    """As itself."""

    def values() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    iterator = ThreadedIterator(values())
    assert await anext(iterator) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        await anext(iterator)


async def test_threaded_iterator_stop_ends_a_pending_anext() -> None:
    """Though the thread hangs in a read."""
    release, reading = threading.Event(), threading.Event()

    def values() -> Iterator[Any]:
        reading.set()
        release.wait()
        yield from ()

    iterator = ThreadedIterator(values())
    got: list[Any] = []

    async def consume() -> None:
        got.extend([value async for value in iterator])

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await anyio.to_thread.run_sync(reading.wait)
        iterator.stop()
    release.set()
    assert got == []
