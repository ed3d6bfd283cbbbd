"""A job: rows in, answers out, until the rows end or somebody ends them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final

import anyio
from anyio import CancelScope

from batchrt.cli.booking import Booked, Gatekeeper
from batchrt.cli.entries import Entry
from batchrt.cli.feed import Feed, PipeFeed
from batchrt.cli.interrupts import watch_interrupts
from batchrt.cli.numbers import count
from batchrt.cli.progress import Progress, choose_display
from batchrt.cli.settings import Settings
from batchrt.cli.speech import complain, say
from batchrt.cli.summary import summary
from batchrt.cli.tally import Tally
from batchrt.cli.writer import Writer
from batchrt.config import RunConfig
from batchrt.jobs import BadRow, OutputError, Row, Sink, Source, open_source
from batchrt.jobs.rendering import error_line
from batchrt.providers.chat import ChatOpenAI
from batchrt.runnables.base import Runnable

__all__ = ["Job"]

_CHUNK: Final = 256
_MOST_COUNTED: Final = 20_000
_AHEAD_PER_SLOT: Final = 20
"""How many rows may be begun while one holds up the output, for each request in flight: some kilobytes
each, for seconds in which a retry sleeps or a server stalls and everybody else goes on."""
_FEWEST_AHEAD: Final = 2000
_MOST_AHEAD: Final = 20_000


class Job:
    """Carry a source's rows through a chain to a sink; to be run once.

    Args:
        chain: from a row's fields to its answer.
        model: the chain's, to be closed at the end.
        settings: as they were given.
        source: the rows.
        sink: where they go.
        fields: makes the fields of a row, or raises the row's error.
        tally: where rows are counted.

    Attributes:
        tally: the counts.
        signal: the number of the signal that ended it, or `None`.
    """

    def __init__(
        self,
        chain: Runnable[Any, Any],
        model: ChatOpenAI,
        *,
        settings: Settings,
        source: Source,
        sink: Sink,
        fields: Callable[[Row | BadRow], Mapping[str, Any]],
        tally: Tally,
    ) -> None:
        self.tally = tally
        self.signal: int | None = None
        self._gate = Gatekeeper(self._end)
        self._chain = Booked(chain, fields, tally, self._gate)
        self._model = model
        self._settings = settings
        self._source = source
        self._sink = sink
        rows = islice(source, settings.limit)
        # Only a pipe has no share that was read.
        self._feed = PipeFeed(rows) if source.fraction_read is None else Feed(rows)
        self._display = choose_display(
            quiet=settings.quiet,
            rows_on_terminal=settings.output == "-" and sys.stdout is not None and sys.stdout.isatty(),
        )
        self._scope: CancelScope | None = None
        self._broken: OutputError | None = None
        self._seconds = 0.0

    @property
    def refusal(self) -> Exception | None:
        """Why the provider lets nobody through, if that is so."""
        return self._gate.refusal if self._gate.is_shut or not self.tally.done else None

    async def run(self) -> None:
        """Run until the rows end, or are ended."""
        started = anyio.current_time()
        writer, progress = Writer(self._sink), self._progress()
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(partial(watch_interrupts, stop=self._stop, cancel=self._cancel))
            helpers.start_soon(self._display.show, progress)
            helpers.start_soon(self._watch_output, writer)
            with CancelScope() as self._scope:
                await self._carry(writer)
            await self._finish(writer)
            helpers.cancel_scope.cancel()
        self._seconds = anyio.current_time() - started

    async def _carry(self, writer: Writer) -> None:
        cap = self._settings.max_concurrency
        config = RunConfig(max_concurrency=cap, window=_window(cap))
        async with (
            self._model,
            self._chain.abatch_iter(self._feed, config, return_exceptions=True) as outcomes,
        ):
            while True:
                try:
                    chunk = await outcomes.next_chunk(_CHUNK)
                except StopAsyncIteration:
                    return
                try:
                    await writer.put([self._take(outcome) for outcome in chunk])
                except OutputError as error:
                    self._break(error)

    def _take(self, outcome: Entry | Exception) -> Entry:
        entry = self._feed.entries.popleft()
        if isinstance(outcome, Exception):  # what even the books could not hold, such as a stray cancellation
            entry.error = outcome
            self.tally.add_failure(entry, outcome)
        return entry

    async def _finish(self, writer: Writer) -> None:
        """Write the rows that ended while others before them had not."""
        self._feed.stop()
        entries = [entry for entry in self._feed.entries if entry.ended]
        if self._broken is None:
            try:
                await writer.put(entries)
                await writer.drain()
            except OutputError as error:
                self._broken = error

    async def _watch_output(self, writer: Writer) -> None:
        try:
            await writer.keep_draining()
        except OutputError as error:
            self._break(error)

    def _break(self, error: OutputError) -> None:
        self._broken = error
        self._end()

    def _end(self) -> None:
        assert self._scope is not None
        self._scope.cancel()

    def _stop(self, number: int) -> None:
        self.signal = number
        self._feed.stop()
        waiting = count(self.tally.in_flight, "row")
        self._display.note(f"stopping, with {waiting} in flight to finish; Ctrl-C again cancels at once")

    def _cancel(self) -> None:
        self._display.note(f"cancelled {count(self.tally.in_flight, 'row')} in flight")
        self._end()

    def _progress(self) -> Progress:
        source = self._source
        return Progress(
            self.tally,
            total=self._total(),
            limit=self._settings.limit,
            fraction_read=lambda: source.fraction_read,
        )

    def _total(self) -> int | None:
        """Count the rows of a small file; of a large one the share of its bytes says as much."""
        if self._settings.quiet or self._settings.source == "-" or self._source.fraction_read is None:
            return None
        most = min(self._settings.limit or _MOST_COUNTED, _MOST_COUNTED)
        with open_source(self._settings.source, format=self._settings.format) as again:
            rows = sum(1 for _ in islice(again, most + 1))
        if rows > most:
            return most if self._settings.limit == most else None
        return rows

    def conclude(self) -> None:
        """Say how it went.

        Raises:
            OutputError: what ended it early.
        """
        if self._broken is not None:
            raise self._broken
        if not self._settings.quiet:
            say(summary(self.tally, self._sink, self._seconds))
        if self.refusal is not None and self.signal is None:
            complain(f"stopped, for the provider lets no request through: {error_line(self.refusal)}")


def _window(cap: int) -> int:
    return max(_FEWEST_AHEAD, 2 * cap, min(_AHEAD_PER_SLOT * cap, _MOST_AHEAD))
