"""The process, which is the command's own."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

__all__ = ["INPUT_THREAD", "allow_connections", "collecting_less", "leave"]

INPUT_THREAD: Final = "batchrt input"
"""The name of the thread that reads a pipe."""

_OTHER_FILES: Final = 64
_LAST_STEPS: Final = 0.1


def allow_connections(count: int) -> int:
    """Raise the limit of open files so that `count` connections fit; return how many do."""
    if sys.platform == "win32":
        return count
    import resource

    wanted = count + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return count
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # macOS has a limit besides those that it tells
        allowed = soft
    return min(count, allowed - _OTHER_FILES)


@contextmanager
def collecting_less() -> Iterator[None]:
    """Collect garbage less often: requests that wait are its opposite, and each collection walks over them.

    Worth a tenth of the CPU time at 500 in flight.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
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
