"""The pipeline of rows from the input to the output, with bounded memory."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Literal, Protocol, TypeVar

import anyio
from anyio.to_thread import run_sync

from batchrt.cli.budget import Budget
from batchrt.cli.counts import Counts
from batchrt.cli.process import INPUT_THREAD
from batchrt.config import RunConfig
from batchrt.files import BadRow, Row, Sink, Source, VectorSink
from batchrt.runnables.base import Runnable
from batchrt.runtime.event_loop import Signal
from batchrt.runtime.strand import Strand
from batchrt.runtime.stream import Stream

__all__ = [
    "Entry",
    "Feed",
    "Load",
    "PipeFeed",
    "Pipeline",
    "RowPipeline",
    "ThreadedIterator",
    "Writer",
    "feed_of",
    "without_traces",
]


class Entry:
    """Hold a row and its outcome.

    Attributes:
        row: as it was read.
        output: the answer, or `None`.
        error: why there is none, or why it is not good, or `None`.
        finish_reason: why the model's answer ended, or `None`.
        ended: whether there will be nothing else.
    """

    __slots__ = ("ended", "error", "finish_reason", "output", "row")

    def __init__(self, row: Row | BadRow) -> None:
        self.row: Row | BadRow = row
        self.output: Any = None
        self.error: Exception | None = None
        self.finish_reason: str | None = None
        self.ended: bool = False

    def fail(self, error: Exception) -> None:
        """End with `error`, of which only the message is of use from now on."""
        self.error = without_traces(error)
        self.ended = True


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


T = TypeVar("T")

_THREAD_ROOM: Final = 256


class ThreadedIterator(AsyncIterator[T]):
    """Iterate over `values`, which a thread of its own pulls, at most some 256 ahead.

    The thread is a daemon: it may wait for ever in a read, which nothing interrupts.

    Raises:
        Exception: the error of `values`, after the last value before it.
    """

    def __init__(self, values: Iterator[T]) -> None:
        self._values = values
        self._ready: deque[T] = deque()
        self._change = threading.Condition()
        self._waiting: Signal | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    async def __anext__(self) -> T:
        if self._thread is None:
            self._thread = threading.Thread(target=self._pull, name=INPUT_THREAD, daemon=True)
            self._thread.start()
        while True:
            with self._change:
                if self._ready:
                    self._change.notify()
                    return self._ready.popleft()
                if self._ended:
                    raise self._error or StopAsyncIteration
                signal = self._waiting = Signal()
            await signal.wait()

    def stop(self) -> None:
        """End the iteration, a pending `anext` too, and the thread as soon as it can."""
        with self._change:
            self._ready.clear()
            self._ended = True
            self._change.notify()
            self._wake()

    def _pull(self) -> None:
        try:
            for value in self._values:
                with self._change:
                    self._change.wait_for(self._has_room)
                    if self._ended:
                        return
                    self._ready.append(value)
                    self._wake()
        except BaseException as error:  # noqa: BLE001  raised where the values are wanted
            self._error = error
        finally:
            with self._change:
                self._ended = True
                self._wake()

    def _has_room(self) -> bool:
        return self._ended or len(self._ready) < _THREAD_ROOM

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None


class Feed(Iterator[Entry]):
    """Give rows one after the other, until they end or `stop` is called.

    For a file on a disk: reading the next row takes microseconds, and a thread would cost more than it
    saves.

    Attributes:
        entries: rows handed out and not taken back, in their order.
        load: their size.
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
        self._rows = ThreadedIterator(rows)

    async def __anext__(self) -> Entry:
        row = await anext(self._rows)
        entry = Entry(row)
        self.load.add(row.size)
        self.entries.append(entry)
        return entry

    def stop(self) -> None:
        """Give no more rows; a pending `anext` ends."""
        self._rows.stop()


def feed_of(source: Source, limit: int | None) -> Feed | PipeFeed:
    """Return an iterator over the first `limit` rows of `source`, or all."""
    rows = islice(source, None if limit is None else min(limit, sys.maxsize))
    # Only a pipe has no share that was read.
    return PipeFeed(rows) if source.fraction_read is None else Feed(rows)


_CHUNK: Final = 256
_AHEAD_PER_SLOT: Final = 20
"""How many rows may be begun while one holds up the output, for each request in flight: some kilobytes
each, for seconds in which a retry sleeps or a server stalls while other rows go on."""
_FEWEST_AHEAD: Final = 2000
_MOST_AHEAD: Final = 20_000


class Pipeline(Protocol):
    """Rows that are carried through a run; to be used once."""

    def start(self) -> Stream[Any]:
        """Return the run, which begins with the first outcome that is asked for."""

    async def take(self, outcomes: Stream[Any]) -> list[Entry]:
        """Wait for rows that are done with, in order, and let go of them.

        Raises:
            StopAsyncIteration: there are no more.
            SpendingLimitError: no more may be begun.
        """

    def rest(self) -> list[Entry]:
        """Return the rows that ended while others before them had not."""

    def stop(self) -> None:
        """Begin no more rows."""


class RowPipeline:
    """Carry rows one by one.

    Args:
        chain: returns each entry with its outcome.
        feed: the entries.
        cap: the most requests in flight, or auto.
        counts: where rows are counted.
        budget: the limits of spending.
    """

    def __init__(
        self,
        chain: Runnable[Entry, Entry],
        feed: Feed | PipeFeed,
        cap: int | Literal["auto"],
        counts: Counts,
        budget: Budget,
    ) -> None:
        self._chain = chain
        self._feed = feed
        self._cap = cap
        self._counts = counts
        self._budget = budget

    def start(self) -> Stream[Any]:
        """Return the run; its outcomes are entries."""
        config = RunConfig(max_concurrency=self._cap, window=_window(self._cap))
        return self._chain.abatch_iter(self._feed, self._budget.limit(config), return_exceptions=True)

    async def take(self, outcomes: Stream[Any]) -> list[Entry]:
        """Wait for some rows that are done with."""
        entries = [self._end(outcome) for outcome in await outcomes.next_chunk(_CHUNK)]
        return [entry for entry in entries if entry.ended]  # the others were left out

    def _end(self, outcome: Entry | Exception) -> Entry:
        entry = self._feed.entries.popleft()
        self._feed.load.remove(entry.row.size)
        if isinstance(outcome, Exception):  # an error of the step itself, such as a stray cancellation
            entry.fail(outcome)
            self._counts.add_failure(entry.row.number, outcome)
        return entry

    def rest(self) -> list[Entry]:
        """Return the rows that ended while others before them had not."""
        return [entry for entry in self._feed.entries if entry.ended]

    def stop(self) -> None:
        """Begin no more rows."""
        self._feed.stop()


def _window(cap: int | Literal["auto"]) -> int:
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
