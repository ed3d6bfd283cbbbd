"""The process: its file descriptors, limits, garbage collection, signals and exit."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import anyio

from batchrt.files import INPUT_THREAD

__all__ = ["collecting_less", "leave", "open_standard_streams", "watch_interrupts"]

_LAST_STEPS: Final = 0.1
_STANDARD_STREAMS: Final = 3


def open_standard_streams() -> None:
    """Have file descriptors 0, 1 and 2 open, on the null device where they are closed.

    Some daemons start programs without them. The next files that are opened get their numbers: the output
    would get the messages of a C library on stderr, and an event loop's descriptor among them makes libuv
    abort (it asserts that a descriptor it closes is above 2).
    """
    for number in range(_STANDARD_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


@contextmanager
def collecting_less() -> Iterator[None]:
    """Collect garbage less often: requests that wait are its opposite, and each collection walks over them.

    Worth a tenth of the CPU time at 500 in flight. The oldest generation is still walked over after every
    ten million objects: cycles of other libraries do not pile up for the length of a job.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def leave(code: int) -> NoReturn:
    """End the process with `code`."""
    readers = [thread for thread in threading.enumerate() if thread.name == INPUT_THREAD]
    for thread in readers:
        thread.join(_LAST_STEPS)
    if any(thread.is_alive() for thread in readers):
        # It waits in a read that nothing can interrupt, with a lock on stdin that the interpreter's
        # own way out would want to have, and abort for the lack of.
        for stream in filter(None, (sys.stdout, sys.stderr)):
            try:
                stream.flush()
            except OSError:
                continue
        os._exit(code)
    sys.exit(code)


_ONE_SIGNAL: Final = 0.5
"""Seconds after the first signal in which others belong to it. GNU timeout sends its signal to the command
and then to its process group, where the command is again; supervisors and wrappers forward a Ctrl-C that
the terminal has sent to all. A person who means another one takes longer."""


async def watch_interrupts(*, stop: Callable[[int], None], cancel: Callable[[], None]) -> None:
    """Call `stop` with the number of the first signal and `cancel` for the second; to be cancelled.

    Signals within half a second of the first one count as part of it, a second Ctrl-C included.
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
