"""Followed files: what is appended to a file is read as it comes."""

from __future__ import annotations

import io
import threading
from typing import Final

__all__ = ["FollowedFile"]

_LOOK_SECONDS: Final = 0.1
"""Seconds between looks at the file's end, as of `tail -s 0.1 -f`."""


class FollowedFile(io.FileIO):
    """Read a file that grows: at its end, wait for more until it is closed.

    A pipe ends when its last writer does. Of a file that another one replaces, the old one is read on.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._left = threading.Event()
        self._waits = self.seekable()

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None:  # type: ignore[override]
        """Fill `buffer` with some bytes; return how many, 0 after `leave`."""
        while not self._left.is_set():
            count = super().readinto(buffer)
            if count or not self._waits:
                return count
            self._left.wait(_LOOK_SECONDS)
        return 0

    def leave(self) -> None:
        """Have the file end here; from any thread."""
        self._left.set()
