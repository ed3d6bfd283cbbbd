"""The process, which is the command's own."""

from __future__ import annotations

import os
import sys
import threading
from typing import Final, NoReturn

__all__ = ["INPUT_THREAD", "allow_connections", "leave"]

INPUT_THREAD: Final = "batchrt input"
"""The name of the thread that reads a pipe."""

_OTHER_FILES: Final = 64


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
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed - _OTHER_FILES


def leave(code: int) -> NoReturn:
    """End the process with `code`."""
    if any(thread.name == INPUT_THREAD for thread in threading.enumerate()):
        # It waits in a read that nothing can interrupt, with a lock on stdin that the interpreter's
        # own way out would want to have, and abort for the lack of.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                continue
        os._exit(code)
    sys.exit(code)
