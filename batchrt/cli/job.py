"""A job: rows in, answers out, until the rows end or somebody ends them."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, Final

import anyio
from anyio import CancelScope

from batchrt.cli.booking import Gatekeeper
from batchrt.cli.brake import Brake
from batchrt.cli.cargo import Cargo
from batchrt.cli.hints import url_hint
from batchrt.cli.incidents import Incidents
from batchrt.cli.interrupts import watch_interrupts
from batchrt.cli.numbers import count
from batchrt.cli.progress import Progress, choose_display
from batchrt.cli.purse import Purse
from batchrt.cli.settings import JobSettings
from batchrt.cli.speech import complain, say
from batchrt.cli.summary import losses, summary
from batchrt.cli.tally import Tally
from batchrt.cli.writer import Writer
from batchrt.errors import OutageError, SpendingLimitError
from batchrt.files import OutputError, Sink, Source, VectorSink
from batchrt.files.cells import error_line
from batchrt.providers.base import Model

__all__ = ["Job"]

_MOST_COUNTED: Final = 20_000


class Job:
    """Carry a source's rows through a model to a sink; to be run once.

    Args:
        cargo: the rows.
        model: who is asked; to be closed at the end.
        settings: as they were given.
        source: where the rows come from.
        sink: where they go.
        tally: where they are counted.
        gate: watches the provider.
        brake: gives up what waits.
        purse: what may be spent.

    Attributes:
        tally: the counts.
        purse: what may be spent.
        signal: the number of the signal that ended it, or `None`.
    """

    def __init__(
        self,
        cargo: Cargo,
        model: Model[Any, Any],
        *,
        settings: JobSettings,
        source: Source,
        sink: Sink | VectorSink,
        tally: Tally,
        gate: Gatekeeper,
        brake: Brake,
        purse: Purse,
    ) -> None:
        self.tally = tally
        self.purse = purse
        self.signal: int | None = None
        self._cargo = cargo
        self._gate = gate
        gate.halt = self._halt
        self._brake = brake
        self._model = model
        self._settings = settings
        self._source = source
        self._sink = sink
        self._display = choose_display(
            quiet=settings.quiet,
            rows_on_terminal=settings.output == "-" and sys.stdout is not None and sys.stdout.isatty(),
        )
        self._incidents = Incidents(self._display.note, patience=settings.patience)
        self._scope: CancelScope | None = None
        self._broken: OutputError | None = None
        self._seconds = 0.0
        self._rows: int | None = None

    @property
    def refusal(self) -> Exception | None:
        """Why the provider lets nobody through, if that is so."""
        return self._gate.refusal if self._gate.is_shut or not self.tally.done else None

    @property
    def is_stopped(self) -> bool:
        """Whether something other than a signal or a limit ended it before its input ended."""
        return self._gate.is_shut or self._source.is_broken

    async def run(self) -> None:
        """Run until the rows end, or are ended."""
        started = anyio.current_time()
        writer, progress = Writer(self._sink), self._progress()
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(partial(watch_interrupts, stop=self._stop, cancel=self._cancel))
            helpers.start_soon(self._display.show, progress)
            helpers.start_soon(self._watch_output, writer)
            helpers.start_soon(self._brake.keep_pulling)
            with CancelScope() as self._scope, self._model.quota.listening(self._incidents):
                await self._carry(writer)
            self._incidents.end()
            await self._finish(writer)
            helpers.cancel_scope.cancel()
        self._seconds = anyio.current_time() - started

    async def _carry(self, writer: Writer) -> None:
        async with self._model, self._cargo.start() as outcomes:
            while True:
                try:
                    entries = await self._cargo.take(outcomes)
                except (StopAsyncIteration, SpendingLimitError):
                    return
                try:
                    await writer.put(entries)
                except OutputError as error:
                    self._break(error)

    async def _finish(self, writer: Writer) -> None:
        """Write the rows that ended while others before them had not."""
        self._cargo.stop()
        if self._broken is None:
            try:
                await writer.put(self._cargo.rest())
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

    def _halt(self) -> None:
        if isinstance(self._gate.refusal, OutageError) or self._gate.is_wrong_address:
            self._end()  # nobody has an answer, and what is in flight would be waited for in vain
        else:
            self._wind_down("Ctrl-C cancels at once")

    def _stop(self, number: int) -> None:
        self.signal = number
        self._wind_down("Ctrl-C again cancels at once")

    def _wind_down(self, hint: str) -> None:
        """Let what is in flight finish, and begin no more."""
        self._cargo.stop()
        waiting = self._brake.pull()
        in_flight = count(self.tally.in_flight - waiting, "row")
        left_out = f", and {waiting:,} that wait left out" if waiting else ""
        self._display.note(f"stopping, with {in_flight} in flight to finish{left_out}; {hint}")

    def _cancel(self) -> None:
        self._display.note(f"cancelled {count(self.tally.in_flight, 'row')} in flight")
        self._end()

    def _progress(self) -> Progress:
        source = self._source
        if not self._settings.quiet:
            self._rows = self._total()
        return Progress(
            self.tally,
            total=self._rows,
            limit=self._settings.limit,
            fraction_read=lambda: source.fraction_read,
            quota=self._model.quota.statistics,
            purse=self.purse,
        )

    def _total(self) -> int | None:
        """Count the rows of a small file; of a large one the share of its bytes says as much."""
        limit = self._settings.limit
        most = min(limit or _MOST_COUNTED, _MOST_COUNTED)
        rows = self._source.count(most)
        if rows is not None and rows > most:
            return most if limit == most else None
        return rows

    def conclude(self) -> None:
        """Say how it went.

        Raises:
            OutputError: what ended it early.
        """
        if self._broken is not None:
            raise self._broken
        stopped = self._stopped()
        not_started = self._not_started()
        if not self._settings.quiet:
            say(
                summary(
                    self.tally,
                    self._incidents,
                    self._sink,
                    self._seconds,
                    stopped=stopped,
                    not_started="" if stopped else not_started,
                    cost=self.purse.cost_of(self.tally),
                )
            )
        else:
            for line in (stopped, *losses(self.tally, self._sink)):
                if line:
                    complain(line)
        if self.refusal is not None and self.signal is None:
            rest = f"; {not_started}" if not_started and self._settings.quiet else ""
            complain(f"stopped, for {self._gate.reason()}: {error_line(self.refusal)}{rest}")
        hint = url_hint(self._settings.base_url, self.tally)
        if hint:
            complain(hint)

    def _stopped(self) -> str:
        """Return where it was stopped by what it may spend, and with what; nothing if it was not."""
        if not self.purse.is_empty:
            return ""
        tally = self.tally
        failed = f", {tally.failed:,} failed" if tally.failed else ""
        not_started = self._not_started()
        rest = f", {not_started}" if not_started else ""
        return (
            f"stopped at {self.purse.verdict()}; "
            f"{tally.done:,} done{failed}, {tally.left_out:,} cancelled{rest}"
        )

    def _not_started(self) -> str:
        """Return how many rows a job that was stopped never began; nothing if it began them all."""
        if not (self.is_stopped or self.signal is not None or self.purse.is_empty):
            return ""
        if self._rows is None:
            self._rows = self._total()
        if self._rows is None:
            return "not started: the rest of the input"
        left = self._rows - self.tally.started
        return f"not started: {count(left, 'row')}" if left > 0 else ""
