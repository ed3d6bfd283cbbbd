"""History of request bodies and their faults, bounded in size."""

from __future__ import annotations

import threading

__all__ = ["History"]


class History:
    """Count arrivals of each body and its faults in a row.

    The newest `keep` bodies at least are kept, twice as many at most: two generations, of which the older is
    dropped whole, need no bookkeeping per request. A body that comes again after so many others counts as
    new.
    """

    __slots__ = ("_keep", "_lock", "_new", "_old")

    def __init__(self, keep: int = 65_536) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._old: dict[int, tuple[int, int]] = {}
        self._new: dict[int, tuple[int, int]] = {}

    def arrived(self, digest: int) -> tuple[int, int]:
        """Record an arrival; return its number, from 1, and the faults in a row before it."""
        with self._lock:
            attempts, in_a_row = self._new.get(digest) or self._old.get(digest) or (0, 0)
            self._put(digest, (attempts + 1, in_a_row))
            return attempts + 1, in_a_row

    def record_outcome(self, digest: int, *, faulty: bool) -> None:
        """Record whether the newest arrival of a body met a fault."""
        with self._lock:
            attempts, in_a_row = self._new.get(digest) or self._old.get(digest) or (1, 0)
            self._put(digest, (attempts, in_a_row + 1 if faulty else 0))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._old, self._new = {}, {}

    def __len__(self) -> int:
        return len(self._old.keys() | self._new.keys())

    def _put(self, digest: int, seen: tuple[int, int]) -> None:
        if len(self._new) >= self._keep and digest not in self._new:
            self._old, self._new = self._new, {}
        self._new[digest] = seen
