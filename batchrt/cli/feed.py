"""The feed of a run: rows of the input, as many as memory allows."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from typing import Final, Literal, TypeAlias

from batchrt.cli.counts import Counts
from batchrt.files import BadRow, Row, Source, ThreadedIterator

__all__ = ["AnyRow", "Feed", "window_of"]

AnyRow: TypeAlias = "Row | BadRow"


_HEAVY: Final = 64 << 20
"""Bytes of rows, as they stand in the file, from which on no more are begun than can be helped. A window is
counted in rows, and 20,000 rows of a megabyte each are too many to wait for one before them."""


class Feed:
    """Give rows to a run one after the other, and keep those whose outcomes have not been taken.

    Args:
        source: the rows.
        limit: the most rows to give; `None` for all.
        counts: where rows are counted as they are given.
        kept: makes the part of a row that is kept for the output.

    Attributes:
        counts: as it was given.
    """

    def __init__(
        self,
        source: Source,
        limit: int | None,
        counts: Counts,
        kept: Callable[[AnyRow], AnyRow] | None = None,
    ) -> None:
        self._rows: Iterator[AnyRow] = islice(source, None if limit is None else min(limit, sys.maxsize))
        # Reading the next row of a file takes microseconds, less than a thread costs. A pipe or a terminal,
        # which may be long in giving one, has no share that was read.
        self._blocks = source.fraction_read is None
        self.counts: Counts = counts
        self._kept = kept
        self._under_way: dict[int, AnyRow] = {}
        self._given_rows = 0
        self._bytes = 0

    def inputs(self) -> Iterator[AnyRow] | AsyncIterator[AnyRow]:
        """Return the rows, as inputs of a run."""
        return self._from_thread() if self._blocks else map(self._given, self._rows)

    async def _from_thread(self) -> AsyncIterator[AnyRow]:
        rows = ThreadedIterator(self._rows)
        try:
            async for row in rows:
                yield self._given(row)
        finally:
            rows.stop()

    def _given(self, row: AnyRow) -> AnyRow:
        kept = row if self._kept is None else self._kept(row)
        self._under_way[self._given_rows] = kept
        self._given_rows += 1
        self.counts.started += 1
        self._bytes += kept.size
        return row

    def has_room(self) -> bool:
        """Whether rows under way take no more memory than they should."""
        return self._bytes <= _HEAVY

    def row(self, index: int) -> AnyRow:
        """Return the row under way that was given as the input of this index."""
        return self._under_way[index]

    def take(self, index: int) -> AnyRow:
        """Return the same row, and let go of it."""
        row = self._under_way.pop(index)
        self._bytes -= row.size
        return row


_AHEAD_PER_SLOT: Final = 20
"""How many rows may be begun while one holds up the output, for each request in flight: some kilobytes
each, for seconds in which a retry sleeps or a server stalls while other rows go on."""
_FEWEST_AHEAD: Final = 2000
_MOST_AHEAD: Final = 20_000


def window_of(cap: int | Literal["auto"]) -> int:
    """Return how many rows may be under way, for a cap on requests in flight."""
    if cap == "auto":
        # Twice as many as may come to be in flight. Rows that are sent or done count; of rows that wait
        # to be sent the run begins a hundred and no more, and one in flight is only some kilobytes.
        return _MOST_AHEAD
    return max(_FEWEST_AHEAD, 2 * cap, min(_AHEAD_PER_SLOT * cap, _MOST_AHEAD))
