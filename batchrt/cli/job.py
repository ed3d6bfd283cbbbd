"""A job: rows from a source through a model to a sink, from its checks to its exit code."""

from __future__ import annotations

import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from batchrt import (
    AbortPolicy,
    ChatOpenAI,
    InputError,
    JournalError,
    OpenAIEmbeddings,
    OutageError,
    OutputClosedError,
    OutputError,
)
from batchrt.cli.abort import abort_reason
from batchrt.cli.budget import Budget, LimitedRun
from batchrt.cli.console import complain, count, say
from batchrt.cli.counts import Counts, cut_off_lines, summary
from batchrt.cli.errors import UsageError
from batchrt.cli.job_files import open_input, option_named
from batchrt.cli.models import is_built_in, url_hint
from batchrt.cli.options import JobSettings, check_number
from batchrt.cli.process import collecting_less, watch_interrupts
from batchrt.cli.progress import Progress, choose_display
from batchrt.cli.provider_events import ProviderEvents
from batchrt.files import Source
from batchrt.files.cells import error_line
from batchrt.providers.http.open_files import allow_connections

if TYPE_CHECKING:
    from batchrt import QuotaStatistics
    from batchrt.integrations.ray.row_pool import RowPool

__all__ = ["Job", "check_limits", "execute"]

_BY_SIGNAL: Final = 128
"""The shell's offset of the exit code of a program that a signal ended."""
_SIGPIPE: Final = 13
_SOME_FAILED: Final = 1
_NOTHING_ANSWERED: Final = 2
_BROKE: Final = 3
"""A limit of spending was reached, whatever became of the rows until then."""
_STOPPED: Final = 4
"""Something ended the job before its input ended, whatever became of the rows until then."""


def check_limits(settings: JobSettings) -> None:
    """Raise UsageError for a time, a rate or a number of requests that cannot be had."""
    check_number(settings, "timeout", of="seconds", above_0=True)
    for name in ("requests_per_minute", "tokens_per_minute"):
        check_number(settings, name, above_0=True)
    for name in ("patience", "max_wait"):
        check_number(settings, name, of="seconds")
    wanted = settings.max_concurrency
    if wanted == "auto" or is_built_in(settings) or settings.ray is not None:
        return
    fit = allow_connections(wanted)
    if fit < wanted:
        raise UsageError(
            f"--max-concurrency {wanted} needs more open files than this system allows; "
            f"use at most {max(1, fit)}, or allow more with ulimit -n"
        )


def execute(settings: JobSettings, new_job: Callable[[Source, ExitStack], Job]) -> int:
    """Run a job over the input of `settings` and return the exit code.

    Args:
        settings: as they were given.
        new_job: makes the job; the stack closes its files when the job has ended.

    Raises:
        UsageError: something has to be put right first; nothing was sent and nothing written.
    """
    try:
        with open_input(settings) as source:
            with ExitStack() as stack:
                job = new_job(source, stack)
                with collecting_less():
                    uvloop = importlib.util.find_spec("uvloop") is not None
                    anyio.run(job.run, backend_options={"use_uvloop": uvloop})
                job.settle()
            return _conclude(job)
    except OutputClosedError:
        return _BY_SIGNAL + _SIGPIPE
    except (OutputError, JournalError) as error:
        complain(str(error))
        return _STOPPED
    except InputError as error:
        raise UsageError(option_named(error)) from error


def _conclude(job: Job) -> int:
    job.conclude()
    if job.signal is not None:
        return _BY_SIGNAL + job.signal
    if job.budget.ended is not None:
        return _BROKE
    if (job.failed or job.refusal is not None) and not job.answered:
        return _NOTHING_ANSWERED
    if job.is_stopped:
        return _STOPPED
    return _SOME_FAILED if job.failed else 0


_MOST_COUNTED: Final = 20_000


class Job(ABC):
    """Carry a source's rows through a model; to be run once.

    Args:
        counts: the counts, without any yet.
        run: what is stopped and counted.
        model: the model; closed at the end.
        settings: as they were given.
        budget: the limits of spending, whose run this becomes.
        source: where the rows come from.

    Attributes:
        counts: the counts of this run.
        budget: as it was given.
        signal: the number of the signal that ended it, or `None`.
    """

    _noun: str | None = None
    """The unit of requests in flight, if they are not called that."""

    def __init__(
        self,
        counts: Counts,
        run: LimitedRun,
        *,
        model: ChatOpenAI | OpenAIEmbeddings,
        settings: JobSettings,
        budget: Budget,
        source: Source,
        abort_policy: AbortPolicy,
    ) -> None:
        self.counts: Counts = counts
        counts.price = budget.price
        self.budget: Budget = budget
        self.signal: int | None = None
        self._run = budget.run = run
        self._model = model
        self._settings = settings
        self._source = source
        self._abort_policy = abort_policy
        abort_policy.on_abort = self._abort
        self._display = choose_display(
            quiet=settings.quiet,
            rows_on_terminal=settings.output == "-" and sys.stdout is not None and sys.stdout.isatty(),
        )
        self._events = ProviderEvents(self._display.note, patience=settings.patience)
        self._scope: CancelScope | None = None
        self._pool: RowPool | None = None
        self._lost: str | None = None
        self._seconds = 0.0
        self._rows: int | None = None

    @property
    def answered(self) -> int:
        """Rows that have an answer."""
        return self.counts.answered

    @property
    def failed(self) -> int:
        """Rows that have an error."""
        return self.counts.failed

    @property
    def before(self) -> int:
        """Rows whose outcomes an earlier run has left."""
        return 0

    @property
    def refusal(self) -> Exception | None:
        """The error for which the job was aborted, or for which no row was done."""
        is_told = self._abort_policy.is_aborted or not (self.counts.done or self.before)
        return self._abort_policy.refusal if is_told else None

    @property
    def is_stopped(self) -> bool:
        """Whether something other than a signal or a limit ended it before its input ended."""
        return self._abort_policy.is_aborted or self._source.is_broken or self._lost is not None

    @property
    def _ended_early(self) -> bool:
        return self.is_stopped or self.signal is not None or self.budget.ended is not None

    def use(self, pool: RowPool) -> None:
        """Have the workers of `pool`, which the chain hands its rows to, end with the job."""
        self._pool = pool
        pool.on_end = self._lose_workers

    def _lose_workers(self) -> None:
        assert self._pool is not None
        self._lost = f"no worker is left in the Ray cluster: {' '.join(str(self._pool.problem).split())}"
        self._run.stop()

    async def run(self) -> None:
        """Run until the rows end, or are ended."""
        started = anyio.current_time()
        progress = self._progress()
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(partial(watch_interrupts, stop=self._stop, cancel=self._cancel))
            helpers.start_soon(self._display.show, progress)
            with CancelScope() as self._scope, self._model.quota.listening(self._events):
                await self._carry(helpers)
            self._events.end()
            await self._finish()
            helpers.cancel_scope.cancel()
        self._seconds = anyio.current_time() - started

    @abstractmethod
    async def _carry(self, helpers: TaskGroup) -> None:
        """Run the rows; `helpers` are tasks that end with the job."""

    @abstractmethod
    async def _finish(self) -> None:
        """Put down outcomes that were ready when the run ended."""

    @abstractmethod
    def settle(self) -> None:
        """Decide on the output's file, before it is closed."""

    def _end(self) -> None:
        """End at once: requests in flight are cancelled."""
        assert self._scope is not None
        if not self._scope.cancel_called:
            self._scope.cancel()
            self.counts.cancelled += self._run.statistics().in_flight

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
        told = self._run.statistics()
        self._run.stop()
        if self._pool is not None:
            self._pool.stop()
        waiting = f"; {count(told.waiting, 'waiting row')} will not be sent" if told.waiting else ""
        self._display.note(
            f"stopping, with {count(told.in_flight, 'row')} in flight to finish{waiting}; {hint}"
        )

    def _cancel(self) -> None:
        in_flight = self._run.statistics().in_flight
        self._display.note(f"cancelled {count(in_flight, 'row')} in flight")
        self._end()

    def _count_run(self) -> None:
        """Have the counts that belong to no single row."""
        told, counts = self._run.statistics(), self.counts
        counts.retries, counts.lists, counts.sent = told.retries, told.lists, told.list_inputs
        counts.cached = told.cached
        counts.estimated_tokens = round(told.estimated_tokens)

    def _progress(self) -> Progress:
        source = self._source
        if not self._settings.quiet:
            self._rows = self._total()
        return Progress(
            self.counts,
            total=self._rows,
            limit=self._settings.limit,
            fraction_read=lambda: source.fraction_read,
            quota=self._quota,
            budget=self.budget,
            noun=self._noun,
            update=self._count_run,
            before=lambda: self.before,
        )

    def _quota(self) -> QuotaStatistics:
        """Return how things stand with the provider; of workers, how many rows they have."""
        standing = self._model.quota.statistics()
        return standing if self._pool is None else replace(standing, in_flight=self._pool.under_way)

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
            OutputError, JournalError: the output or the journal could not be written, which ended the job.
        """
        not_started = self._not_started()
        stopped = self._stopped(not_started)
        if not self._settings.quiet:
            cost = self.budget.cost_of(self.counts)
            ended = {"stopped": stopped, "not_started": "" if stopped else not_started, "cost": cost}
            lines = summary(self.counts, self._events, self._seconds, **ended)
            say("\n".join((*lines, *self._output_lines())))
        else:
            for line in (stopped, *cut_off_lines(self.counts), *self._losses()):
                if line:
                    complain(line)
        if self.refusal is not None and self.signal is None:
            rest = f"; {not_started}" if not_started and self._settings.quiet else ""
            complain(f"stopped because {abort_reason(self._abort_policy)}: {error_line(self.refusal)}{rest}")
        if self._lost is not None:
            complain(f"stopped because {self._lost}")
        hint = url_hint(self._settings.base_url, self.counts)
        if hint:
            complain(hint)

    @abstractmethod
    def _output_lines(self) -> Iterable[str]:
        """Return the lines of the summary about the output."""

    @abstractmethod
    def _losses(self) -> Iterable[str]:
        """Return the lines about the output that are not to be missed."""

    def _stopped(self, not_started: str) -> str:
        """Return the limit of spending at which the job stopped, and its counts; empty if it did not."""
        if self.budget.ended is None:
            return ""
        counts = self.counts
        failed = f", {counts.failed:,} failed" if counts.failed else ""
        rest = f", {not_started}" if not_started else ""
        done = f"{counts.done:,} done{failed}, {counts.cancelled:,} cancelled"
        return f"stopped at {self.budget.verdict()}; {done}{rest}"

    def _not_started(self) -> str:
        """Return how many rows a job that was stopped never sent; nothing if it sent them all."""
        if not self._ended_early:
            return ""
        if self._rows is None:
            self._rows = self._total()
        if self._rows is None:
            return "not started: the rest of the input"
        left = self._rows - self.before - self.counts.ended - self.counts.cancelled
        return f"not started: {count(left, 'row')}" if left > 0 else ""
