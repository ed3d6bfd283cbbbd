"""An event loop on which waiting takes no time: what a schedule is worth, whatever the machine."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run_virtually"]

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Say that the time to wait is over; and how much it was."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Look whether anything is ready; if not, jump to the next timer."""
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout is not None:
            self.waited += max(0.0, timeout)
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    """Have a clock that stands still while code runs."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the seconds that were waited so far."""
        return self._clock.waited


def run_virtually(main: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """Run `main` and return its result and how long it waited; computing takes no time on its clock.

    For what sleeps, and neither talks to anybody nor waits for threads.
    """
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        loop = runner.get_loop()
        result = runner.run(main)
        return result, loop.time()
