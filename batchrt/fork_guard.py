"""The fork guard: closes the SQLite files of this process before each fork of it."""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet

__all__ = ["ForkGuard"]


class _ClosedAtFork(Protocol):
    def before_fork(self) -> None:
        """Wait for the end of what uses the file, hold back what would, and close it."""

    def after_fork(self) -> None:
        """Let the file be used again, in the parent and in the child."""


class ForkGuard:
    """Close files before each fork, and let them be used again after it; made once, with its module.

    SQLite keeps the locks of a process in its memory, so that a child would take those of the parent for its
    own. What runs before a fork is the process's, and cannot be taken back.

    Attributes:
        lock: held by each fork, and to be held from when a file is opened until it is added.
    """

    def __init__(self) -> None:
        self.lock: threading.RLock = threading.RLock()
        self._files: WeakSet[_ClosedAtFork] = WeakSet()
        self._closed: list[_ClosedAtFork] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._after)

    def add(self, file: _ClosedAtFork) -> None:
        """Close `file` before forks from now on, as long as it exists."""
        self._files.add(file)

    def _before(self) -> None:
        self.lock.acquire()
        self._closed[:] = self._files
        for file in self._closed:
            file.before_fork()

    def _after(self) -> None:
        for file in self._closed:
            file.after_fork()
        self._closed.clear()
        self.lock.release()
