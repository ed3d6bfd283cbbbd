"""How much memory the rows between the input and the output take."""

from __future__ import annotations

from typing import Final

import anyio

from batchrt.runtime.strand import Strand

__all__ = ["Load"]

_HEAVY: Final = 64 << 20
"""Bytes of rows, as they stand in the file, from which on no more are begun than can be helped. A window is
counted in rows, and 20,000 rows of a megabyte each are too many to wait for one before them."""


class Load:
    """Weigh the rows that were begun and not handed to the writer; past a bound, have new ones wait.

    Invariant: a row that has ended waits here, without its slot, only while others are to be taken off;
    whether they can be does not depend on the rows that wait. So there is nothing to deadlock on.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self._less = anyio.Event()

    @property
    def is_heavy(self) -> bool:
        """Whether rows take more memory than they should."""
        return self._bytes > _HEAVY

    def add(self, size: int) -> None:
        """Count a row of so many bytes."""
        self._bytes += size

    def remove(self, size: int) -> None:
        """Take rows off."""
        self._bytes -= size
        if not self.is_heavy and self._less.statistics().tasks_waiting:
            self._less.set()
            self._less = anyio.Event()

    async def lessened(self, strand: Strand) -> None:
        """Wait until there is room again, while few rows are admitted; `strand` is of one that ended."""
        strand.wait_throttled()
        try:
            while self.is_heavy:
                await self._less.wait()
        finally:
            strand.release()
