"""A row writer: rows with their outcomes, written to a sink from async code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import anyio
from anyio.to_thread import run_sync

from batchrt.files.rows import BadRow, Row
from batchrt.files.sink import Sink
from batchrt.files.vectors.base import VectorSink

__all__ = ["Entry", "RowWriter", "without_traces"]


class Entry(NamedTuple):
    """Hold a row and its outcome.

    Attributes:
        row: as it was read.
        output: the answer, or `None`.
        error: why there is none, or why it is not good, or `None`.
        finish_reason: why the model's answer ended, or `None`.
    """

    row: Row | BadRow
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


_FLUSH_SECONDS: Final = 0.1
"""The longest that a row waits for others before it is written, so that `tail -f` shows it."""
_FLUSH_ROWS: Final = 512
_FLUSH_BYTES: Final = 1 << 24


class RowWriter:
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
                # Rows taken off the list must be written, so a cancellation waits.
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
