"""Objects of an event loop are closed with it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import anyio
import pytest
import uvloop

from batchrt.runtime.loop_end import close_at_loop_end


class Thing:
    """Record when it is closed."""

    def __init__(self, closed: list[str], name: str = "") -> None:
        self._closed = closed
        self._name = name

    def close(self) -> None:
        self._closed.append(self._name)


LOOPS: list[tuple[str, dict[str, Any]]] = [
    ("asyncio", {"debug": True}),
    ("asyncio", {"use_uvloop": True}),
    ("trio", {}),
]


@pytest.mark.parametrize(("backend", "options"), LOOPS)
def test_loop_end_closes_each_thing_once(backend: str, options: dict[str, Any]) -> None:
    """After the last task, and not before; each loop has its own."""
    closed: list[str] = []
    things = [Thing(closed, "a"), Thing(closed, "b")]

    async def main(thing: Thing) -> None:
        await close_at_loop_end(thing)
        await close_at_loop_end(thing)
        await anyio.sleep(0.001)
        assert thing._name not in closed

    for thing in things:
        anyio.run(main, thing, backend=backend, backend_options=options)
        assert closed[-1:] == [thing._name]
    assert closed == ["a", "b"]


@pytest.mark.parametrize(("backend", "options"), LOOPS)
def test_loop_end_keeps_nothing_alive(backend: str, options: dict[str, Any]) -> None:
    """What is collected before the loop ends is not closed by it."""
    closed: list[str] = []

    async def main() -> None:
        await close_at_loop_end(Thing(closed))
        gc.collect()

    anyio.run(main, backend=backend, backend_options=options)
    assert closed == []


@pytest.mark.parametrize(("backend", "options"), LOOPS)
def test_loop_end_comes_after_an_error_too(backend: str, options: dict[str, Any]) -> None:
    """The program's own error is raised as it is."""
    closed: list[str] = []
    thing = Thing(closed)

    async def main() -> None:
        await close_at_loop_end(thing)
        raise LookupError

    with pytest.raises(LookupError):
        anyio.run(main, backend=backend, backend_options=options)
    assert closed == [""]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_loop_end_needs_no_anyio_run(run: Any) -> None:
    """The runners of asyncio and uvloop close it too."""
    closed: list[str] = []
    thing = Thing(closed)
    run(close_at_loop_end(thing))
    assert closed == [""]
