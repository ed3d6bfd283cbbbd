"""Ctrl-C, SIGTERM and SIGHUP: once to stop, twice to stop at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

import anyio

__all__ = ["watch_interrupts"]

_ONE_SIGNAL: Final = 0.5
"""Seconds after the first signal in which others belong to it. GNU timeout sends its signal to the command
and then to its process group, where the command is again; supervisors and wrappers forward a Ctrl-C that
the terminal has sent to all. A person who means another one takes longer."""


async def watch_interrupts(*, stop: Callable[[int], None], cancel: Callable[[], None]) -> None:
    """Call `stop` with the number of the first signal and `cancel` for the second; to be cancelled.

    Signals that were ignored when the process began stay so, as nohup wants it for SIGHUP. After the
    second one the system's own handling is back: a third ends the process, whatever it waits for. Where
    signals cannot be watched, it returns, and Ctrl-C is Python's `KeyboardInterrupt`.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return
    candidates = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    watched = [number for number in candidates if signal.getsignal(number) is not signal.SIG_IGN]
    if not watched:
        return
    with anyio.open_signal_receiver(*watched) as received:
        stop(await anext(received))
        first = anyio.current_time()
        async for _ in received:
            if anyio.current_time() > first + _ONE_SIGNAL:
                break
    for number in watched:
        signal.signal(number, signal.SIG_DFL)
    cancel()
