from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing

from batchrt.files import Entry, OutputError, Row, RowWriter, Sink, open_sink, without_traces


def entries(*numbers: int) -> list[Entry]:
    return [Entry(Row(number, number, {"n": number})) for number in numbers]


def rows(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_row_writer_rows_are_on_the_disk_a_tenth_of_a_second_later(tmp_path: Path) -> None:
    """So that `tail -f` shows them, and at once if there are many."""
    path = tmp_path / "out.jsonl"

    async def main(sink: Sink) -> None:
        writer = RowWriter(sink)
        async with anyio.create_task_group() as group:
            group.start_soon(writer.keep_draining)
            await writer.put(entries(1, 2))
            assert rows(path) == 0
            await anyio.sleep(0.11)
            assert rows(path) == 2
            await writer.put(entries(*range(1000)))
            assert rows(path) == 1002
            group.cancel_scope.cancel()

    with open_sink(path, columns=["n"]) as sink:
        trio.run(main, sink, clock=trio.testing.MockClock(autojump_threshold=0.01))


@pytest.mark.anyio
async def test_row_writer_cancelled_write_is_a_write(tmp_path: Path) -> None:
    """Rows are neither lost nor written twice."""
    path = tmp_path / "out.jsonl"
    writing, release = threading.Event(), threading.Event()

    class SlowSink:
        def __init__(self, sink: Sink) -> None:
            self._sink = sink

        def write(self, *row: Any) -> None:
            writing.set()
            release.wait()
            self._sink.write(*row)

        def flush(self) -> None:
            self._sink.flush()

    with open_sink(path, columns=["n"]) as sink:
        slow: Any = SlowSink(sink)
        writer = RowWriter(slow)
        await writer.put(entries(1, 2, 3))
        async with anyio.create_task_group() as group:
            group.start_soon(writer.drain)
            await anyio.to_thread.run_sync(writing.wait)
            group.cancel_scope.cancel()
            release.set()
        await writer.drain()
    assert [line[:6] for line in path.read_text().splitlines()] == ['{"n": ' for _ in range(3)]


@pytest.mark.anyio
@pytest.mark.parametrize("steps", range(6))
async def test_row_writer_write_may_be_cancelled_at_any_step(tmp_path: Path, steps: int) -> None:
    """Before it begins as well."""
    path = tmp_path / "out.jsonl"
    with open_sink(path, columns=["n"]) as sink:
        writer = RowWriter(sink)
        await writer.put(entries(1, 2, 3))
        async with anyio.create_task_group() as group:
            group.start_soon(writer.drain)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        await writer.drain()
    assert rows(path) == 3


@pytest.mark.anyio
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
async def test_row_writer_output_that_fails_says_so() -> None:
    """From `put` and from `drain`."""
    sink = open_sink("/dev/full", columns=["n"], format="jsonl")
    writer = RowWriter(sink)
    with pytest.raises(OutputError):
        await writer.put(entries(*range(1000)))
    await writer.put(entries(1))
    with pytest.raises(OutputError):
        await writer.drain()
    with pytest.raises(OutputError):
        sink.flush()
    sink.close()


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
def test_row_writer_entries_that_failed_are_let_go_of(function: Callable[[], None]) -> None:
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


def test_row_writer_errors_of_entries_keep_their_message() -> None:
    """A chain that bites its tail is no matter."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert without_traces(first) is first
    assert str(first) == "a"
    assert first.__cause__ is None
