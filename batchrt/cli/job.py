"""A job: rows from a source through a model to a sink, from its checks to its exit code."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import anyio
from anyio import CancelScope

from batchrt.cli.abort import AbortPolicy, Withdrawals
from batchrt.cli.budget import Budget
from batchrt.cli.console import complain, count, say
from batchrt.cli.counts import Counts, kept_apart, losses, summary
from batchrt.cli.errors import UsageError
from batchrt.cli.models import is_built_in, url_hint
from batchrt.cli.options import JobSettings
from batchrt.cli.pipeline import Pipeline, Writer
from batchrt.cli.process import allow_connections, collecting_less, watch_interrupts
from batchrt.cli.progress import Progress, choose_display
from batchrt.cli.provider_events import ProviderEvents
from batchrt.errors import InputError, OutageError, SpendingLimitError
from batchrt.files import OutputClosedError, OutputError, Sink, Source, VectorSink, open_source
from batchrt.files.cells import error_line
from batchrt.files.formats import choose_format
from batchrt.files.paths import expand_paths
from batchrt.files.sampled_source import SampledSource
from batchrt.providers.base import Model

__all__ = [
    "Job",
    "JobState",
    "check_limits",
    "execute",
    "option_named",
    "output_format",
    "output_option_named",
]

_BY_SIGNAL: Final = 128
"""The shell's offset of the exit code of a program that a signal ended."""
_SIGPIPE: Final = 13
_SOME_FAILED: Final = 1
_NOTHING_ANSWERED: Final = 2
_BROKE: Final = 3
"""A limit of spending was reached, whatever became of the rows until then."""
_STOPPED: Final = 4
"""Something ended the job before its input ended, whatever became of the rows until then."""


@dataclass(frozen=True, slots=True)
class JobState:
    """Hold the objects that a job shares with the step of its rows.

    Attributes:
        counts: of rows, tokens and errors.
        budget: the limits of spending.
        abort_policy: is told of each row's end, and aborts the job.
        withdrawals: of requests that wait when the job is stopped.
    """

    counts: Counts
    budget: Budget
    abort_policy: AbortPolicy
    withdrawals: Withdrawals

    @classmethod
    def of(cls, settings: JobSettings, *, answers: bool) -> Self:
        """Return the state of a job that begins; raises as `Budget.of` does."""
        policy = AbortPolicy(max_wait=settings.max_wait, patience=settings.patience)
        return cls(Counts(), Budget.of(settings, answers=answers), policy, Withdrawals())


def check_limits(settings: JobSettings) -> None:
    """Raise UsageError for a time, a rate or a number of requests that cannot be had."""
    seconds = settings.timeout
    if seconds is not None and not 0 < seconds < math.inf:
        raise UsageError(f"--timeout must be a number of seconds above 0, not {seconds:g}")
    for name in ("requests_per_minute", "tokens_per_minute"):
        limit = getattr(settings, name)
        if limit is not None and not 0 < limit < math.inf:
            raise UsageError(f"{_option(name)} must be a number above 0, not {limit:g}")
    for name in ("patience", "max_wait"):
        wait = getattr(settings, name)
        if not 0 <= wait < math.inf:
            raise UsageError(f"{_option(name)} must be a number of seconds, 0 or more, not {wait:g}")
    wanted = settings.max_concurrency
    if wanted == "auto" or is_built_in(settings):
        return
    fit = allow_connections(wanted)
    if fit < wanted:
        raise UsageError(
            f"--max-concurrency {wanted} needs more open files than this system allows; "
            f"use at most {max(1, fit)}, or allow more with ulimit -n"
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def option_named(error: InputError) -> str:
    """Return the error's message with the option in place of the parameter that it names."""
    if error.parameter is None:
        return str(error)
    return str(error).replace(f"`{error.parameter}`", _option(error.parameter))


def output_option_named(error: InputError) -> str:
    """Do `option_named` for an error of the output, whose format has an option of its own."""
    if error.parameter != "format":
        return option_named(error)
    return str(error).replace("`format`", "--output-format")


def output_format(settings: JobSettings) -> str | None:
    """Return the format of the output, `None` if neither an option nor a suffix tells it."""
    if settings.output_format is not None or settings.output == "-":
        return settings.output_format
    try:
        return choose_format(settings.output)
    except InputError:  # opening it raises the same
        return None


def _open_source(settings: JobSettings) -> Source:
    """Open the input; a delimiter is for CSV, and for an output that is one."""
    delimiter = settings.delimiter
    names = expand_paths(settings.source)
    if delimiter is not None and all(choose_format(name, settings.format) != "csv" for name in names):
        if output_format(settings) != "csv":
            raise UsageError("--delimiter is for CSV, and neither the input nor the output is one")
        delimiter = None
    source = open_source(names, format=settings.format, delimiter=delimiter, encoding=settings.encoding)
    if settings.sample is None:
        return source
    return SampledSource(source, settings.sample, seed=settings.sample_seed, limit=settings.limit)


def execute(settings: JobSettings, new_job: Callable[[Source, ExitStack], Job]) -> int:
    """Run a job over the input of `settings` and return the exit code.

    Args:
        settings: as they were given.
        new_job: makes the job; the stack closes its files when the job has ended.

    Raises:
        UsageError: something has to be put right first; nothing was sent and nothing written.
    """
    try:
        with _open_source(settings) as source:
            with ExitStack() as stack:
                job = new_job(source, stack)
                with collecting_less():
                    uvloop = importlib.util.find_spec("uvloop") is not None
                    anyio.run(job.run, backend_options={"use_uvloop": uvloop})
                if not job.is_complete:
                    job.sink.mark_partial()
            return _conclude(job)
    except OutputClosedError:
        return _BY_SIGNAL + _SIGPIPE
    except OutputError as error:
        complain(str(error))
        return _STOPPED
    except InputError as error:
        raise UsageError(option_named(error)) from error


def _conclude(job: Job) -> int:
    job.conclude()
    if job.signal is not None:
        return _BY_SIGNAL + job.signal
    if job.budget.is_empty:
        return _BROKE
    counts = job.counts
    if (counts.failed or job.refusal is not None) and not counts.answered:
        return _NOTHING_ANSWERED
    if job.is_stopped:
        return _STOPPED
    return _SOME_FAILED if counts.failed else 0


_MOST_COUNTED: Final = 20_000


class Job:
    """Carry a source's rows through a model to a sink; to be run once.

    Args:
        pipeline: the rows.
        model: the model; closed at the end.
        state: the objects shared with the step.
        settings: as they were given.
        source: where the rows come from.
        sink: where they go.

    Attributes:
        counts: the counts.
        budget: the limits of spending.
        signal: the number of the signal that ended it, or `None`.
        sink: where the rows go.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        model: Model[Any, Any],
        state: JobState,
        *,
        settings: JobSettings,
        source: Source,
        sink: Sink | VectorSink,
    ) -> None:
        self.counts: Counts = state.counts
        self.budget: Budget = state.budget
        self.signal: int | None = None
        self._pipeline = pipeline
        self._abort_policy = state.abort_policy
        state.abort_policy.on_abort = self._abort
        self._withdrawals = state.withdrawals
        self._model = model
        self._settings = settings
        self.sink: Sink | VectorSink = sink
        self._source = source
        self._display = choose_display(
            quiet=settings.quiet,
            rows_on_terminal=settings.output == "-" and sys.stdout is not None and sys.stdout.isatty(),
        )
        self._events = ProviderEvents(self._display.note, patience=settings.patience)
        self._scope: CancelScope | None = None
        self._broken: OutputError | None = None
        self._seconds = 0.0
        self._rows: int | None = None

    @property
    def refusal(self) -> Exception | None:
        """The error for which the job was aborted, or for which no row was done."""
        return self._abort_policy.refusal if self._abort_policy.is_aborted or not self.counts.done else None

    @property
    def is_stopped(self) -> bool:
        """Whether something other than a signal or a limit ended it before its input ended."""
        return self._abort_policy.is_aborted or self._source.is_broken

    @property
    def is_complete(self) -> bool:
        """Whether the output may replace an older one: no row is missing, and not all of them failed."""
        is_ended = self.is_stopped or self.signal is not None or self.budget.is_empty
        nothing_answered = self.counts.failed and not self.counts.answered
        return not (is_ended or nothing_answered or self._broken is not None)

    async def run(self) -> None:
        """Run until the rows end, or are ended."""
        started = anyio.current_time()
        writer, progress = Writer(self.sink), self._progress()
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(partial(watch_interrupts, stop=self._stop, cancel=self._cancel))
            helpers.start_soon(self._display.show, progress)
            helpers.start_soon(self._watch_output, writer)
            helpers.start_soon(self._withdrawals.keep_withdrawing)
            with CancelScope() as self._scope, self._model.quota.listening(self._events):
                await self._carry(writer)
            self._events.end()
            await self._finish(writer)
            helpers.cancel_scope.cancel()
        self._seconds = anyio.current_time() - started

    async def _carry(self, writer: Writer) -> None:
        async with self._model, self._pipeline.start() as outcomes:
            while True:
                try:
                    entries = await self._pipeline.take(outcomes)
                except (StopAsyncIteration, SpendingLimitError):
                    return
                try:
                    await writer.put(entries)
                except OutputError as error:
                    self._break(error)

    async def _finish(self, writer: Writer) -> None:
        """Write the rows that ended while others before them had not."""
        self._pipeline.stop()
        if self._broken is None:
            try:
                await writer.put(self._pipeline.rest())
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

    def _abort(self) -> None:
        if isinstance(self._abort_policy.refusal, OutageError) or self._abort_policy.is_wrong_address:
            self._end()  # requests in flight would get no answer either
        else:
            self._wind_down("Ctrl-C cancels at once")

    def _stop(self, number: int) -> None:
        self.signal = number
        self._wind_down("Ctrl-C again cancels at once")

    def _wind_down(self, hint: str) -> None:
        """Let requests in flight finish, and begin no more."""
        self._pipeline.stop()
        waiting = self._withdrawals.begin()
        in_flight = count(self.counts.in_flight - waiting, "row")
        left_out = f", and {waiting:,} that wait left out" if waiting else ""
        self._display.note(f"stopping, with {in_flight} in flight to finish{left_out}; {hint}")

    def _cancel(self) -> None:
        self._display.note(f"cancelled {count(self.counts.in_flight, 'row')} in flight")
        self._end()

    def _progress(self) -> Progress:
        source = self._source
        if not self._settings.quiet:
            self._rows = self._total()
        return Progress(
            self.counts,
            total=self._rows,
            limit=self._settings.limit,
            fraction_read=lambda: source.fraction_read,
            quota=self._model.quota.statistics,
            budget=self.budget,
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
            OutputError: the output could not be written, which ended the job early.
        """
        if self._broken is not None:
            for line in kept_apart(self.sink):
                complain(line)
            raise self._broken
        stopped = self._stopped()
        not_started = self._not_started()
        if not self._settings.quiet:
            say(
                summary(
                    self.counts,
                    self._events,
                    self.sink,
                    self._seconds,
                    stopped=stopped,
                    not_started="" if stopped else not_started,
                    cost=self.budget.cost_of(self.counts),
                )
            )
        else:
            for line in (stopped, *losses(self.counts, self.sink), *kept_apart(self.sink)):
                if line:
                    complain(line)
        if self.refusal is not None and self.signal is None:
            rest = f"; {not_started}" if not_started and self._settings.quiet else ""
            complain(f"stopped because {self._abort_policy.reason()}: {error_line(self.refusal)}{rest}")
        hint = url_hint(self._settings.base_url, self.counts)
        if hint:
            complain(hint)

    def _stopped(self) -> str:
        """Return the limit of spending at which the job stopped, and its counts; empty if it did not."""
        if not self.budget.is_empty:
            return ""
        counts = self.counts
        failed = f", {counts.failed:,} failed" if counts.failed else ""
        not_started = self._not_started()
        rest = f", {not_started}" if not_started else ""
        return (
            f"stopped at {self.budget.verdict()}; "
            f"{counts.done:,} done{failed}, {counts.left_out:,} cancelled{rest}"
        )

    def _not_started(self) -> str:
        """Return how many rows a job that was stopped never began; nothing if it began them all."""
        if not (self.is_stopped or self.signal is not None or self.budget.is_empty):
            return ""
        if self._rows is None:
            self._rows = self._total()
        if self._rows is None:
            return "not started: the rest of the input"
        left = self._rows - self.counts.started
        return f"not started: {count(left, 'row')}" if left > 0 else ""
