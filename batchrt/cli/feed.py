"""Rows as the run asks for them, and those among them that are not written yet."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from itertools import islice

from batchrt.cli.conveyor import Conveyor
from batchrt.cli.entries import Entry
from batchrt.cli.load import Load
from batchrt.files import BadRow, Row, Source

__all__ = ["Feed", "PipeFeed", "feed_of"]


class Feed(Iterator[Entry]):
    """Give rows one after the other, until they end or `stop` is called.

    For a file on a disk: reading the next row takes microseconds, and a thread would cost more than it
    saves.

    Attributes:
        entries: what was given and has not been taken back, in the order of the rows.
        load: what these weigh.
    """

    def __init__(self, rows: Iterator[Row | BadRow]) -> None:
        self.entries: deque[Entry] = deque()
        self.load: Load = Load()
        self._stopped = False
        self._rows = rows

    def __next__(self) -> Entry:
        if self._stopped:
            raise StopIteration
        row = next(self._rows)
        entry = Entry(row)
        self.load.add(row.size)
        self.entries.append(entry)
        return entry

    def stop(self) -> None:
        """Give no more rows."""
        self._stopped = True


class PipeFeed(AsyncIterator[Entry]):
    """Do what `Feed` does, for a pipe or a terminal, where the next row may be long in coming."""

    def __init__(self, rows: Iterator[Row | BadRow]) -> None:
        self.entries: deque[Entry] = deque()
        self.load: Load = Load()
        self._rows = Conveyor(rows)

    async def __anext__(self) -> Entry:
        row = await anext(self._rows)
        entry = Entry(row)
        self.load.add(row.size)
        self.entries.append(entry)
        return entry

    def stop(self) -> None:
        """Give no more rows, also to those who wait for one."""
        self._rows.stop()


def feed_of(source: Source, limit: int | None) -> Feed | PipeFeed:
    """Return what gives the first `limit` rows of `source`, or all."""
    rows = islice(source, None if limit is None else min(limit, sys.maxsize))
    # Only a pipe has no share that was read.
    return PipeFeed(rows) if source.fraction_read is None else Feed(rows)
