"""Ctrl-C and SIGTERM: once to stop, twice to stop at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable

import anyio

__all__ = ["watch_interrupts"]


async def watch_interrupts(*, stop: Callable[[int], None], cancel: Callable[[], None]) -> None:
    """Call `stop` with the number of the first signal and `cancel` for the second; to be cancelled.

    After the second one the system's own handling is back: a third ends the process, whatever it waits
    for. Where signals cannot be watched, it returns, and Ctrl-C is Python's `KeyboardInterrupt`.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    with anyio.open_signal_receiver(*watched) as received:
        stop(await anext(received))
        await anext(received)
    for number in watched:
        signal.signal(number, signal.SIG_DFL)
    cancel()
