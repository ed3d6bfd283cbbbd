"""The pipeline of rows from the input to the output, with bounded memory."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import anyio
from anyio.to_thread import run_sync

from batchrt.cli.counts import Counts
from batchrt.files import BadRow, Row, Sink, Source, ThreadedIterator, VectorSink

__all__ = ["AnyRow", "Entry", "Feed", "Writer", "window_of", "without_traces"]

AnyRow: TypeAlias = "Row | BadRow"


class Entry(NamedTuple):
    """Hold a row and its outcome.

    Attributes:
        row: as it was read.
        output: the answer, or `None`.
        error: why there is none, or why it is not good, or `None`.
        finish_reason: why the model's answer ended, or `None`.
    """

    row: AnyRow
    output: Any = None
    error: Exception | None = None
    finish_reason: str | None = None


def without_traces(error: Exception) -> Exception:
    """Return `error` without its traceback, cause and context.

    A traceback holds the frames of the call, which hold the row, which holds the error: a cycle that keeps
    the row with all its columns until a garbage collection, which is rare while a job runs.
    """
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        chain += (link.__cause__, link.__context__)
        if isinstance(link, BaseExceptionGroup):
            chain += link.exceptions
        link.__traceback__ = None
    error.__cause__ = error.__context__ = None
    return error


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
        self._under_way: deque[AnyRow] = deque()
        self._bytes = 0
        self._taken = 0

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
        self.counts.started += 1
        self._bytes += kept.size
        self._under_way.append(kept)
        return row

    def has_room(self) -> bool:
        """Whether rows under way take no more memory than they should."""
        return self._bytes <= _HEAVY

    def row(self, index: int) -> AnyRow:
        """Return the row under way that was given as the input of this index."""
        return self._under_way[index - self._taken]

    def take(self, index: int) -> AnyRow:
        """Return the same row, and let go of it and of all rows before it."""
        while True:
            row = self._under_way.popleft()
            self._bytes -= row.size
            self._taken += 1
            if self._taken > index:
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


_FLUSH_SECONDS: Final = 0.1
"""The longest that a row waits for others before it is written, so that `tail -f` shows it."""
_FLUSH_ROWS: Final = 512
_FLUSH_BYTES: Final = 1 << 24


class Writer:
    """Write entries to `sink` in the order they are put, many at a time.

    In a thread, for a pipe whose reader is slow must not hold up the requests in flight.
    """

    def __init__(self, sink: Sink | VectorSink) -> None:
        self._sink = sink
        self._entries: list[Entry] = []
        self._bytes = 0
        self._turn = anyio.Lock()

    async def put(self, entries: Sequence[Entry]) -> None:
        """Take `entries`; wait while there is too much to write.

        Raises:
            OutputError: as `Sink.write` does.
        """
        self._entries.extend(entries)
        self._bytes += sum(entry.row.size for entry in entries)
        if len(self._entries) >= _FLUSH_ROWS or self._bytes >= _FLUSH_BYTES:
            await self.drain()

    async def drain(self) -> None:
        """Write all there is and hand it to the operating system; raises as `put` does."""
        async with self._turn:
            entries, self._entries, self._bytes = self._entries, [], 0
            if entries:
                # Rows taken off the list are written: a cancellation comes before or after.
                with anyio.CancelScope(shield=True):
                    await run_sync(self._write, entries)

    async def keep_draining(self) -> None:
        """Call `drain` every tenth of a second until cancelled; raises as `put` does."""
        while True:
            await anyio.sleep(_FLUSH_SECONDS)
            await self.drain()

    def _write(self, entries: Sequence[Entry]) -> None:
        sink = self._sink
        if isinstance(sink, Sink):
            for entry in entries:
                sink.write(entry.row.values, entry.output, entry.error, entry.finish_reason)
        else:
            for entry in entries:
                sink.write(entry.row.values, entry.output, entry.error)
        sink.flush()
