"""A job with a journal: each outcome is on the disk before it is counted, and the same command goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from anyio.abc import TaskGroup

import batchrt
from batchrt import (
    AbortPolicy,
    ChatOpenAI,
    InputError,
    JobReport,
    JournalError,
    OpenAIEmbeddings,
    Outcome,
    OutputError,
    OutputLayout,
    RunConfig,
    Runnable,
)
from batchrt.cli.budget import Budget
from batchrt.cli.console import complain, count, size
from batchrt.cli.counts import Counts, left_out_lines, output_lines
from batchrt.cli.errors import UsageError, option_of
from batchrt.cli.job import Job
from batchrt.cli.job_files import option_named
from batchrt.cli.options import JobSettings
from batchrt.files import BadRow, Row, Sink, Source, VectorSink
from batchrt.files.remote import shown_name
from batchrt.jobs.output import is_free

__all__ = ["JournalJob", "RowKind"]


@dataclass(frozen=True, slots=True)
class RowKind:
    """Hold what a journal's rows are to one of the commands.

    Attributes:
        version: stands for the code of this program's own steps in the identity of a chain: raised when
            their results change, so that a new release of this package does not send all rows again.
        refine: returns an outcome as it is recorded.
        cut_off: returns the finish reason of a recorded output that is not whole.
        noun: the unit of requests in flight, if they are not called that.
    """

    version: str
    refine: Callable[[Outcome[Any]], Outcome[Any]]
    cut_off: Callable[[Any], str | None] = lambda _: None
    noun: str | None = None


class JournalJob(Job):
    """Run the rows that the journal has no outcome of, and write the output from it.

    Args:
        chain: from a row's values to its output.
        layout: of the output.
        read: from a row to the values that the chain takes; raises InputError for a row that lacks one.
        kind: see `RowKind`.
        journal: the journal's path.
        model: the model; closed at the end.
        config: of the run, without its limits.
        settings: as they were given.
        budget: the limits of spending.
        source: where the rows come from.
    """

    def __init__(
        self,
        chain: Runnable[Any, Any],
        layout: OutputLayout,
        read: Callable[[Row | BadRow], object],
        kind: RowKind,
        journal: str,
        *,
        model: ChatOpenAI | OpenAIEmbeddings,
        config: RunConfig,
        settings: JobSettings,
        budget: Budget,
        source: Source,
    ) -> None:
        policy = AbortPolicy(max_wait=settings.max_wait, patience=settings.patience)
        limited = budget.limit(budget.priced({**config, "max_concurrency": settings.max_concurrency}))
        self._numbers: list[int] | None = [] if settings.sample is not None else None
        source.check(self._noting(read))
        self._kind = kind
        self._noun = kind.noun
        self._journal = journal
        self._layout = layout
        self._sink: Sink | VectorSink | None = None
        self._job = batchrt.Job(
            chain,
            source,
            settings.output,
            journal=self._journal,
            config=limited,
            reuse=settings.reuse,
            fresh=settings.fresh,
            retry_failed=settings.retry_failed,
            version=kind.version,
            overwrite=settings.overwrite,
            keeps_partial=True,
            ordered=not (settings.unordered or settings.follow),
            # A sample is drawn from the first rows, and is all there is.
            limit=settings.limit if settings.sample is None else None,
            refine=kind.refine,
            layout=OutputLayout(self._opened, self._write),
            abort_policy=policy,
        )
        super().__init__(
            Counts(),
            self._job,
            model=model,
            settings=settings,
            budget=budget,
            source=source,
            abort_policy=policy,
        )
        self._retries_failed = settings.retry_failed
        self._report: JobReport | None = None
        self._broken: JournalError | OutputError | InputError | UsageError | None = None

    def _noting(self, read: Callable[[Row | BadRow], object]) -> Callable[[Row | BadRow], object]:
        """Return `read`, which also notes the numbers of the rows of a sample."""

        def noting(row: Row | BadRow) -> object:
            if self._numbers is not None:
                self._numbers.append(row.number)
            return read(row)

        return noting

    def _opened(self, path: str) -> Sink | VectorSink:
        self._sink = self._layout.open(path)
        return self._sink

    def _write(
        self, sink: Any, place: int, values: Mapping[str, Any], output: Any, error: str | None
    ) -> None:
        self._layout.write(sink, self._number(place) - 1, values, output, error)

    def _number(self, place: int) -> int:
        """Return the number of the row in the file that is at a place of the job's input."""
        return place + 1 if self._numbers is None else self._numbers[place]

    @property
    def answered(self) -> int:
        """Rows that have an answer, those of earlier runs included."""
        matches = self._job.matches
        return self.counts.answered + (0 if matches is None else matches.reused)

    @property
    def failed(self) -> int:
        """Rows that have an error, those of earlier runs included."""
        matches = self._job.matches
        kept = 0 if matches is None or self._retries_failed else matches.failed_before
        return self.counts.failed + kept

    @property
    def before(self) -> int:
        """Rows whose outcomes earlier runs have left, among those read so far."""
        matches = self._job.matches
        if matches is None:
            return 0
        return matches.reused + (0 if self._retries_failed else matches.failed_before)

    @property
    def is_stopped(self) -> bool:
        """Whether a row has no outcome for another reason than a signal or a limit."""
        is_short = self._report is None or not self._report.is_complete
        return super().is_stopped or (is_short and self.signal is None and self.budget.ended is None)

    async def _carry(self, helpers: TaskGroup) -> None:  # noqa: ARG002  it needs none
        async with self._model:
            try:
                self._report = await self._job.arun(self._record)
            except (JournalError, OutputError, InputError, UsageError) as error:
                self._broken = error

    async def _finish(self) -> None:
        self._count_run()
        if self._report is not None:
            self.counts.cancelled = self._report.interrupted

    def settle(self) -> None:
        """Do nothing: the output is written when it is complete, or not at all."""

    def _end(self) -> None:
        self._job.cancel()

    def _count_run(self) -> None:
        super()._count_run()
        matches = self._job.matches
        if matches is not None:
            self.counts.started = self.before + matches.changed + matches.new

    def _record(self, outcome: Outcome[Any]) -> None:
        """Count an outcome that is on the disk."""
        counts, recorded = self.counts, outcome.output
        if outcome.usage is not None:
            counts.add_usage(outcome.usage)
        if recorded is not None:
            counts.answered += 1
            reason = self._kind.cut_off(recorded)
            if reason is not None:
                counts.add_cut_off(reason)
        if outcome.error is None:
            counts.done += 1
        else:
            counts.add_failure(self._number(outcome.index), outcome.error)

    def conclude(self) -> None:
        """Say how it went, and how to go on.

        Raises:
            UsageError: nothing was sent, for the journal or the output cannot be used.
            JournalError, OutputError: one of them could not be written.
        """
        error = self._broken
        if error is None:
            super().conclude()
            return
        if isinstance(error, JournalError):
            error = _in_terms_of_options(error)
        if isinstance(error, InputError) and error.parameter == "overwrite":
            problem = f"{option_named(error)} (there is no journal of it, {self._journal}, to resume)"
            error = UsageError(problem)
        if self._job.matches is not None:
            complain(
                f"the outcomes so far are in the journal {self._journal}; run the same command to continue"
            )
        elif isinstance(error, JournalError):
            raise UsageError(str(error)) from error
        raise error

    def _output_lines(self) -> Iterable[str]:
        report = self._report
        if report is not None:
            if report.aside is not None:
                yield f"the old journal is kept as {report.aside}"
            if resumed := report.resumed():
                yield f"rows by the journal {self._journal}: {resumed}"
        yield from self._change_lines()
        if report is not None and (report.is_written or report.has_partial) and self._sink is not None:
            yield from output_lines(self._sink)
        if report is not None and report.is_written:
            yield f"journal: {self._journal} ({size(self._journal)})"
        yield from self._way_on()

    def _losses(self) -> Iterable[str]:
        report = self._report
        if report is not None and (report.is_written or report.has_partial) and self._sink is not None:
            yield from left_out_lines(self._sink)
        yield from self._change_lines()
        yield from self._way_on()

    def _change_lines(self) -> Iterable[str]:
        """Yield the lines about answers of another model, prompt or option."""
        matches = self._job.matches
        if matches is None:
            return
        for name, rows in matches.changed_parts.most_common():
            yield f"{name} changed: {count(rows, 'row')} run again"
        if matches.kept:
            yield f"kept, though another model, prompt or option gave them: {count(matches.kept, 'answer')}"

    def _way_on(self) -> Iterable[str]:
        """Yield the line that says how to go on with a job that is not complete."""
        report = self._report
        if report is None or report.is_written:
            return
        if report.ended and not (self._abort_policy.is_aborted or self.signal or self.budget.ended):
            yield f"no outcome: {count(report.interrupted, 'row')}, because {' '.join(report.ended.split())}"
        rows = count(report.done + report.failed, "row")
        out = shown_name(self._settings.output)
        if report.is_complete:
            yield f"{out} is unchanged, for no row has an answer; --retry-failed asks all of them again"
            return
        goal = "has an outcome"
        if self._retries_failed and report.failed:
            rows = f"{count(report.done, 'row')}, and errors of {report.failed:,}, which are asked again"
            goal = "was asked again"
        yield f"the journal {self._journal} has the outcomes of {rows}; run the same command to continue"
        if not report.has_partial:
            is_new = is_free(self._settings.output)
            yield f"{out} is {'' if is_new else 'unchanged: it is '}written when each row {goal}"


def _in_terms_of_options(error: JournalError) -> JournalError:
    text = str(error).replace("`fresh`", option_of("fresh")).replace("run the job again", "run it again")
    return JournalError(text, path=error.path, fault=error.fault)
