"""Jobs: a chain over the rows of a source, whose outcomes are kept in a journal."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio.from_thread
import anyio.to_thread
from anyio import CancelScope

from batchrt.config import RunConfig, check_config
from batchrt.errors import DeadlineExceededError, SpendingLimitError
from batchrt.files import Source, ThreadedIterator, required_columns
from batchrt.jobs.estimate import JobEstimate, estimate_job
from batchrt.jobs.event_log import EventLog
from batchrt.jobs.identity import Identity
from batchrt.jobs.job_run import JobRun, Observer, Refiner
from batchrt.jobs.journal import Journal
from batchrt.jobs.journal_reader import JournalReader, RunRecord
from batchrt.jobs.matching import Matcher, Matches
from batchrt.jobs.output import OutputLayout, check_output, check_unused, is_free, is_stream, write_output
from batchrt.jobs.records import Codec
from batchrt.jobs.report import JobReport
from batchrt.jobs.rows import JobSource, count_rows, open_rows, read_async_rows, read_rows, source_paths
from batchrt.jobs.unordered_output import UnorderedOutput
from batchrt.limits.abort_policy import AbortPolicy
from batchrt.limits.quota_watch import watching_quotas
from batchrt.providers.embeddings.tokenizer import TokenizerName
from batchrt.runnables.base import RunnableLike, coerce
from batchrt.runtime.clock import Clock
from batchrt.runtime.outcome import Outcome
from batchrt.runtime.outcome_iterator import RunStatistics
from batchrt.runtime.portal import call_blocking
from batchrt.runtime.progress_bar import ProgressBar
from batchrt.runtime.sync_callbacks import check_sync

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Job", "Reuse"]

Reuse: TypeAlias = Literal["same", "any"]


class Job:
    """Run a chain over many rows such that a killed process loses nothing: run it again, and it goes on.

        job = Job(prompt | model | StrOutputParser(), "tickets.csv", "answers.csv", journal="answers.journal")
        print(job.run())

    Each outcome is on the disk, in the journal, before it is counted, shown or written to the output. The
    same job run again reuses the outcomes of rows whose request is the same (messages, model, every
    parameter, schema, endpoint) and that go through the same parsers and functions; equal rows have one
    outcome each. Rows may be added, removed and reordered. What was changed is run again, and the report
    names the part of the chain.

    Errors of a row are its outcome, and are kept too. Rows that no request could be sent for, since the key
    or the credit is missing or the provider is down, have no outcome: after five of them in a row the run is
    stopped, and the next run goes on with them.

    Args:
        chain: from a row's value to its output, which JSON can carry (or a pydantic model that the chain's
            last step returns).
        source: a file (its path, or opened), a data frame or Arrow table, or any iterable or async iterable
            of values that JSON can carry. It is read from the start by each run; an iterator, which runs on
            the event loop, serves a single one.
        sink: the output file, CSV, TSV, JSONL or Parquet; `None` for none. It is written from the journal
            once each row has an outcome, and is the same whether the job was interrupted or not. Rows that
            all failed do not replace an older one.
        journal: the journal's file, made by the first run. Its folder must be on a local disk.
        config: for the run, as for `abatch`.
        reuse: `any` keeps answers of another chain to the same input.
        fresh: begin anew; the old journal is kept aside. Only the first run of this object does so.
        retry_failed: run rows again that failed before.
        version: stands for the code of the chain's functions. Without it the bytecode, the defaults and the
            closure of each function are compared, with the functions, runnables and constants of its own
            module that it names; but no other module, and another version of Python is a change.
        overwrite: replace an output that another program or job has made.
        ordered: write the output in the order of the input, once each row has an outcome. Otherwise rows are
            written as they end (see `UnorderedOutput`), those that are reused first.
        keeps_partial: write the rows so far to the output also when a run ends early, unless it is a file of
            another run or job, or all rows had an outcome when it was last written.
        limit: the most rows to read.
        refine: returns an outcome as it is to be recorded, for a chain whose output has more to it than JSON
            can carry. One with an error and an output counts as failed; both are kept.
        layout: of the output, if it is to have other columns.
        abort_policy: decides when the provider lets nothing through any more; its `on_abort` should call
            `stop` or `cancel`. It serves one run. By default the run is stopped after five rows in a row.

    Raises:
        ValueError: a function cannot be compared between processes and there is no `version`; or an option
            makes no sense.
    """

    def __init__(
        self,
        chain: RunnableLike[Any, Any],
        source: JobSource,
        sink: str | os.PathLike[str] | None = None,
        *,
        journal: str | os.PathLike[str],
        config: RunConfig | None = None,
        reuse: Reuse = "same",
        fresh: bool = False,
        retry_failed: bool = False,
        version: str | None = None,
        overwrite: bool = False,
        ordered: bool = True,
        keeps_partial: bool = False,
        limit: int | None = None,
        refine: Refiner | None = None,
        layout: OutputLayout | None = None,
        abort_policy: AbortPolicy | None = None,
    ) -> None:
        if reuse not in ("same", "any"):
            raise ValueError(f"reuse must be 'same' or 'any', not {reuse!r}")
        if sink is not None and Path(sink).absolute() == Path(journal).absolute():
            raise ValueError(f"the output and the journal cannot be the same file: {os.fspath(sink)}")
        self.journal: str = os.fspath(journal)
        self._chain = coerce(chain)
        self._source = source
        self._sink = None if sink is None else os.fspath(sink)
        self._config = check_config(config)
        self._version = version
        self._identity = Identity(self._chain, version)
        self._reuse_any = reuse == "any"
        self._fresh = fresh
        self._retry_failed = retry_failed
        self._overwrite = overwrite
        self._ordered = ordered
        self._keeps_partial = keeps_partial
        self._limit = limit
        self._refine = refine
        self._layout = layout
        self._abort_policy = abort_policy
        self._matcher: Matcher | None = None
        self._writing: CancelScope | None = None
        self._codec = Codec(self._identity.output_type)
        self._run: JobRun | None = None
        self._bar: ProgressBar | None = None
        self._stop_called = False
        self._is_used_up = False
        self._report: JobReport | None = None

    def run(self, observe: Observer | None = None, *, progress: bool = False) -> JobReport:
        """Do `arun` from sync code; an iterator of rows runs on a background event loop."""
        return call_blocking(partial(self.arun, observe, progress=progress))

    async def arun(self, observe: Observer | None = None, *, progress: bool = False) -> JobReport:
        """Run the rows that have no outcome yet, write the output if each row has one, and report.

        Args:
            observe: called with each outcome of this run once it is on the disk, on the event loop.
            progress: show a bar of the rows that have an outcome, on stderr or in a notebook, as `progress`
                in the config does.

        Raises:
            ImportError: tqdm is not installed, which the bar needs (`batchrt[progress]`).
            JournalError: the journal cannot be opened or written, or another process has it open. What was
                committed is in it, and running the job again goes on.
            InputError: the source cannot be read, or has no column that the prompt names; or the output
                cannot be created.
            OutputError: the output cannot be written; the journal is complete.
            TypeError: a row's value cannot be kept in a journal.
            ValueError: the source is an iterator, and was read by a run before.
        """
        wants_bar = progress or self._config.get("progress", False)
        run = self._new_run(observe, self._show if wants_bar else None)
        with ExitStack() as opened:
            rows = opened.enter_context(open_rows(self._source))
            source = rows if isinstance(rows, Source) else None
            if source is not None:
                required_columns(source, self._identity.needs)
            files = [] if self._sink is None else check_output(self._sink, source, self._layout)
            journal = opened.enter_context(Journal(self.journal, fresh=self._fresh, committed=run.committed))
            if journal.is_new and not self._overwrite:
                check_unused(files)
            self._fresh = False
            if wants_bar:
                self._bar = ProgressBar(count_rows(rows, self._limit), "row")
                opened.callback(self._bar.close)
            if self._sink is not None and not self._ordered:
                run.output = UnorderedOutput(journal, self._sink, files or [self._sink], source, self._layout)
                report = self._report = await self._write_along(run, run.output, rows, journal)
                self._stop_called = False
                return report
            report = self._report = await self._carry_out(run, rows, journal)
            if self._sink is not None and self._is_to_be_written(journal, report, self._sink):
                journal.begin_output(is_complete=report.is_complete)
                report = self._report = await self._written(report, source, self._sink)
        self._stop_called = False
        return report

    def _new_run(self, observe: Observer | None, show: Callable[[int, int], object] | None) -> JobRun:
        if self._is_used_up:
            raise ValueError(
                "the job's source is an iterator, which the run before has read; make a job with a new one"
            )
        if observe is not None:
            check_sync("observe", observe)
        self._is_used_up = isinstance(self._source, Iterator | AsyncIterator)
        run = self._run = JobRun(
            self._chain,
            {**self._config, "progress": False},
            observe,
            refine=self._refine,
            abort_policy=self._abort_policy,
            show=show,
        )
        if self._stop_called:
            run.stop()
        return run

    async def _write_along(
        self, run: JobRun, output: UnorderedOutput, rows: Any, journal: Journal
    ) -> JobReport:
        """Carry the job out, and write its rows as they end."""
        try:
            report = await self._carry_out(run, rows, journal)
        except BaseException:
            with suppress(Exception), CancelScope(shield=True):
                await anyio.to_thread.run_sync(partial(output.close, is_complete=False))
            raise
        close = partial(output.close, is_complete=report.is_complete, rows=report.rows or 0)
        with CancelScope() as self._writing:
            await anyio.to_thread.run_sync(close, abandon_on_cancel=True)
        is_written = report.is_complete and not self._writing.cancelled_caught
        return replace(report, is_written=is_written, has_partial=bool(output.rows) and not is_written)

    async def _written(self, report: JobReport, source: Source | None, sink: str) -> JobReport:
        """Write the output, and return the report that says so."""
        write = partial(write_output, self.journal, sink, source, rows=report.rows, layout=self._layout)
        with CancelScope() as self._writing:
            await anyio.to_thread.run_sync(partial(write, check=anyio.from_thread.check_cancelled))
            return replace(report, is_written=report.is_complete, has_partial=not report.is_complete)
        return report

    def _is_to_be_written(self, journal: Journal, report: JobReport, sink: str) -> bool:
        if report.is_complete:  # an output without any answer is no reason to lose an older one
            return bool(report.done) or not report.failed or is_stream(sink) or is_free(sink)
        if not self._keeps_partial or not (report.done or report.failed):
            return False
        return is_stream(sink) or journal.has_partial_output or is_free(sink)

    async def _carry_out(self, run: JobRun, rows: Any, journal: Journal) -> JobReport:
        started, wall = perf_counter(), Clock().wall
        journal.begin_run(wall(), source_paths(rows))
        matcher = Matcher(
            journal,
            self._identity,
            reuse_any=self._reuse_any,
            retry_failed=self._retry_failed,
            on_use=None if run.output is None else run.output.reuse,
        )
        self._matcher = matcher
        # A pipe may be long in giving a row; the next row of a file takes microseconds, less than a thread.
        blocks = isinstance(rows, Source) and rows.fraction_read is None
        given = ThreadedIterator(rows) if blocks else rows
        read: Any = read_async_rows if isinstance(given, AsyncIterable) else read_rows
        log = EventLog(journal, wall)
        try:
            with watching_quotas(log.note):
                await run.run(read(given, self._limit), journal, matcher, self._codec)
        finally:
            log.end()
        if isinstance(rows, Source) and rows.is_broken:
            run.end_early("the input cannot be read to its end")
        if run.at_end and self._limit is None:
            journal.trim(matcher.position)
        is_complete = run.at_end and not (run.interrupted or run.not_started)
        ended = RunRecord(matcher.position, is_complete, perf_counter() - started, run.ended)
        journal.end_run(ended)
        journal.flush()
        totals = await anyio.to_thread.run_sync(journal.totals)
        report = self._report_of(run, matcher, journal, {**ended._asdict(), **totals._asdict()})
        journal.put_counts(report.counts())
        journal.flush()
        return report

    def _show(self, ended: int, failed: int) -> None:
        """Show rows of this run that have an outcome, and those of the runs before."""
        matches = self.matches
        if self._bar is not None and matches is not None:
            before = 0 if self._retry_failed else matches.failed_before
            self._bar.show(matches.reused + before + ended, before + failed)

    def stop(self) -> None:
        """End the run gracefully: rows in flight are finished and recorded, and no more are started.

        May be called from any thread, from a signal handler, and before the run has begun. It holds for this
        run alone.
        """
        self._stop_called = True
        if self._run is not None:
            self._run.stop()

    def cancel(self) -> None:
        """End the run at once, to be called on its event loop: rows in flight are cancelled.

        What had ended is recorded, and `arun` returns its report. An output that is being written is left
        as it was.
        """
        if self._run is not None:
            self._run.cancel()
        if self._writing is not None:
            self._writing.cancel()

    @property
    def matches(self) -> Matches | None:
        """The counts of rows by how they were matched with the journal; `None` before it was opened."""
        return None if self._matcher is None else self._matcher.matches

    @property
    def ended(self) -> SpendingLimitError | DeadlineExceededError | None:
        """The error of the limit at which the last run ended early."""
        return None if self._run is None else self._run.limit_error

    def statistics(self) -> RunStatistics:
        """Return the counts of the rows that the last run sent, so far."""
        return RunStatistics() if self._run is None else self._run.statistics()

    def estimate(self, *, tokenizer: TokenizerName = "estimate", examples: int = 3) -> JobEstimate:
        """Return what the next run would send, and its cost by the config's `prices`; nothing is sent.

        Args:
            tokenizer: see `estimate_job`.
            examples: how many of the first requests to keep.

        Raises:
            TypeError: the source is an iterator, which this would use up; or as for `estimate_job`.
            InputError, JournalError, ImportError, TokenizerError: as for `estimate_job`.
        """
        return self._estimate(tokenizer, examples, lambda: None)

    async def aestimate(self, *, tokenizer: TokenizerName = "estimate", examples: int = 3) -> JobEstimate:
        """Do `estimate` in a thread; cancellation ends it."""
        estimate = partial(self._estimate, tokenizer, examples, anyio.from_thread.check_cancelled)
        return await anyio.to_thread.run_sync(estimate)

    def _estimate(self, tokenizer: TokenizerName, examples: int, check: Callable[[], object]) -> JobEstimate:
        if isinstance(self._source, Iterator | AsyncIterator):
            raise TypeError("the job's source is an iterator, which an estimate would use up; give a list")
        return estimate_job(
            self._chain,
            self._source,
            prices=self._config.get("prices"),
            tokenizer=tokenizer,
            examples=examples,
            limit=self._limit,
            journal=None if self._fresh else self.journal,
            reuse_any=self._reuse_any,
            retry_failed=self._retry_failed,
            version=self._version,
            check=check,
        )

    def write(self) -> None:
        """Write the rows that the journal has to the sink now, also where others are missing.

        Raises:
            ValueError: the job has no sink.
            JournalError, InputError, OutputError: as for `arun`.
        """
        if self._sink is None:
            raise ValueError("the job has no sink; give it one")
        with open_rows(self._source) as rows:
            source = rows if isinstance(rows, Source) else None
            write_output(self.journal, self._sink, source, layout=self._layout)

    def outcomes(self) -> Iterator[Outcome[Any]]:
        """Iterate over the outcomes in the journal, in the order of the input, with bounded memory.

        Also before a run, and while another process runs the job. `index` is the row's place in the input;
        an error is a `RecordedError`.

        Raises:
            JournalError: there is no journal, or it cannot be read.
        """
        with JournalReader(self.journal) as journal:
            for position, _, record in journal.records():
                yield self._codec.outcome(position, record)

    def report(self) -> JobReport:
        """Return the report of the last run or, before one, of the journal alone.

        Raises:
            JournalError: there was no run, and the journal cannot be read.
        """
        if self._report is not None:
            return self._report
        return JobReport.of(self.journal)

    def to_arrow(self) -> pa.Table:
        """Return the rows of the journal as an Arrow table; see `JobReport.to_arrow`."""
        return JobReport(self.journal).to_arrow()

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows of the journal as a data frame; see `JobReport.to_pandas`."""
        return JobReport(self.journal).to_pandas()

    def _report_of(
        self, run: JobRun, matcher: Matcher, journal: Journal, facts: Mapping[str, Any]
    ) -> JobReport:
        matches = matcher.matches
        return JobReport(
            self.journal,
            reused=matches.reused,
            failed_before=matches.failed_before,
            changed=matches.changed,
            changed_parts=dict(matches.changed_parts),
            new=matches.new,
            gone=self._gone(run, matches, journal),
            kept=matches.kept,
            interrupted=run.interrupted,
            not_started=run.not_started,
            aside=journal.aside,
            **facts,
        )

    def _gone(self, run: JobRun, matches: Matches, journal: Journal) -> int | None:
        """Return how many recorded rows are not in the input any more, or `None` if that is not known."""
        if not run.at_end or self._limit is not None:
            return None
        # The old outcome of a changed row without a new one is at no place either.
        return max(0, journal.gone() - (matches.changed - run.superseded))
