"""Virtual time on both kinds of event loop: waits take no time, and their order is as it would be."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from trio.testing import MockClock

__all__ = ["run_in_virtual_time"]


class _Selector(selectors.DefaultSelector):
    """Instead of waiting, let the time pass."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing is going to happen any more: this hangs"
            self.now += max(0.0, timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_in_virtual_time(backend: str, main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` on asyncio or Trio; it must use no threads. Fails where it would hang."""

    async def bounded() -> None:
        with anyio.fail_after(10_000):
            await main()

    if backend == "trio":
        anyio.run(bounded, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})
    else:
        anyio.run(bounded, backend="asyncio", backend_options={"loop_factory": _Loop})
