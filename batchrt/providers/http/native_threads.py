"""The end of a process that native threads still have something to tell."""

from __future__ import annotations

import sys
import threading
import time
from typing import Final

__all__ = ["let_threads_out"]

_PATIENCE: Final = 1.0
_NAP: Final = 0.001


def let_threads_out() -> None:
    """Wait for threads that Python did not start to come out of it, a second at most.

    Such a thread wakes the event loop it has an answer for, and lets go of the GIL to do so. Before
    it has the GIL back, the loop may have ended and the program with it; and in a Python older than
    3.13.8 a thread that wants the GIL of an ending interpreter is unwound (CPython's gh-87135),
    which through Rust's frames is an abort or a segmentation fault.
    """
    end = time.monotonic() + _PATIENCE
    while _threads_from_outside() and time.monotonic() < end:
        time.sleep(_NAP)


def _threads_from_outside() -> set[int]:
    """Return the threads that are in Python now and that Python did not start."""
    ours = {thread.ident for thread in threading.enumerate()}
    return {thread for thread in sys._current_frames() if thread not in ours}
