"""Rows that failed take no more memory than others."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import anyio
import pytest

from batchrt.cli import pipeline as load_module
from batchrt.cli.pipeline import Entry, Load, without_traces
from batchrt.files import Row
from batchrt.runtime.strand import Strand


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
        entry = Entry(Row(1, 1, values))

        def call(_entry: Entry) -> None:
            function()

        try:
            call(entry)
        except Exception as error:
            entry.fail(error)
        assert entry.ended
        assert entry.error is not None
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


class Strands(Strand):
    """Stand in for a strand."""

    def __init__(self) -> None:
        self.waiting = 0

    def wait_throttled(self) -> None:
        self.waiting += 1

    def release(self) -> None:
        self.waiting -= 1


@pytest.mark.anyio
async def test_pipeline_load_has_rows_wait_until_others_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without their slots, and all of them go on at once."""
    monkeypatch.setattr(load_module, "_HEAVY", 100)
    load, strand = Load(), Strands()
    load.add(100)
    light = load.is_heavy
    assert not light
    load.add(1)
    assert load.is_heavy
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(load.lessened, strand)
        await anyio.wait_all_tasks_blocked()
        assert strand.waiting == 3
        load.add(50)
        load.remove(50)
        await anyio.wait_all_tasks_blocked()
        assert strand.waiting == 3
        load.remove(1)
    assert [strand.waiting] == [0]
