"""A job with a journal: each outcome is on the disk before it is counted, and the same command goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from anyio.abc import TaskGroup

import batchrt
from batchrt import (
    AbortPolicy,
    ChatOpenAI,
    InputError,
    JobReport,
    JournalError,
    Outcome,
    OutputError,
    RunConfig,
    Runnable,
)
from batchrt.cli.answers import Answer
from batchrt.cli.budget import Budget
from batchrt.cli.console import complain, count
from batchrt.cli.counts import Counts, left_out_lines, output_lines
from batchrt.cli.errors import UsageError, option_of
from batchrt.cli.job import Job
from batchrt.cli.options import RunSettings
from batchrt.files import BadRow, Row, Sink, Source
from batchrt.files.cells import listed
from batchrt.files.remote import is_remote
from batchrt.jobs.output import OutputLayout

__all__ = ["CHAIN_VERSION", "JournalJob", "check_journal"]

CHAIN_VERSION: Final = "batchrt run 1"
"""Stands for the code of this program's own steps in the identity of a chain: raised when their results
change, so that a new release of this package does not send all rows again."""


def check_journal(settings: RunSettings) -> None:
    """Raise UsageError for options that make no sense with a journal, or without one."""
    if settings.journal is None:
        for name in ("retry_failed", "fresh"):
            if getattr(settings, name):
                raise UsageError(f"{option_of(name)} is for a run with --journal")
        if settings.reuse != "same":
            raise UsageError("--reuse is for a run with --journal")
        return
    if settings.output == "-":
        raise UsageError("--journal needs an output file, which is written at the end: name one with -o")
    if is_remote(settings.output) or is_remote(settings.journal):
        raise UsageError("--journal is for files of this machine, the journal and OUT both")
    for name, path in (("OUT", settings.output), *(("INPUT", path) for path in settings.source)):
        if os.path.realpath(path) == os.path.realpath(settings.journal):
            raise UsageError(f"--journal {settings.journal} is {name} too; name another file")


class JournalJob(Job):
    """Run the rows that the journal has no outcome of, and write the output from it.

    Args:
        chain: from a row's values to its `Answer`.
        open_sink: opens the output at a path, replacing what is there.
        read: from a row to the values that the prompt takes; raises InputError for a row that lacks one.
        model: the model; closed at the end.
        settings: as they were given, with a journal.
        budget: the limits of spending.
        source: where the rows come from.
    """

    def __init__(
        self,
        chain: Runnable[Any, Answer],
        open_sink: Callable[[str], Sink],
        read: Callable[[Row | BadRow], object],
        *,
        model: ChatOpenAI,
        settings: RunSettings,
        budget: Budget,
        source: Source,
    ) -> None:
        assert settings.journal is not None
        policy = AbortPolicy(max_wait=settings.max_wait, patience=settings.patience)
        config = budget.limit(budget.priced({"max_concurrency": settings.max_concurrency}))
        _check_types(source)
        source.check(self._noting(read))
        self._journal = settings.journal
        self._open_sink = open_sink
        self._sink: Sink | None = None
        self._job = batchrt.Job(
            chain,
            source,
            settings.output,
            journal=self._journal,
            config=RunConfig(**config),
            reuse=settings.reuse,
            fresh=settings.fresh,
            retry_failed=settings.retry_failed,
            version=CHAIN_VERSION,
            overwrite=settings.overwrite,
            # A sample is drawn from the first rows, and is all there is.
            limit=settings.limit if settings.sample is None else None,
            refine=_refined,
            layout=OutputLayout(self._opened, _split),
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
        self._numbers: list[int] | None = [] if settings.sample is not None else None

    def _noting(self, read: Callable[[Row | BadRow], object]) -> Callable[[Row | BadRow], object]:
        """Return `read`, which also notes the numbers of the rows of a sample."""

        def noting(row: Row | BadRow) -> object:
            if self._numbers is not None:
                self._numbers.append(row.number)
            return read(row)

        return noting

    def _opened(self, path: str) -> Sink:
        self._sink = self._open_sink(path)
        return self._sink

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
            if recorded.get("cut_off"):
                counts.add_cut_off(recorded["finish_reason"] or "")
        if outcome.error is None:
            counts.done += 1
        else:
            numbers = self._numbers
            number = outcome.index + 1 if numbers is None else numbers[outcome.index]
            counts.add_failure(number, outcome.error)

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
        if self._job.matches is not None:
            complain(f"the outcomes so far are in the journal {self._journal}; the same command goes on")
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
        if report is not None and report.is_written and self._sink is not None:
            yield from output_lines(self._sink)
        yield from self._way_on()

    def _losses(self) -> Iterable[str]:
        if self._report is not None and self._report.is_written and self._sink is not None:
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
        yield f"the journal {self._journal} has the outcomes of {rows}; the same command goes on"
        yield f"{self._settings.output} is unchanged: it is written when each row has an outcome"


def _check_types(source: Source) -> None:
    """Raise UsageError for columns of bytes, which a journal's JSON cannot carry."""
    columns = [name for name, kind in source.arrow_types.items() if "binary" in str(kind)]
    if columns:
        raise UsageError(
            f"--journal keeps rows as JSON, which has no bytes: leave out or encode {listed(columns)}"
        )


def _refined(outcome: Outcome[Any]) -> Outcome[Any]:
    """Return the outcome of an answer as JSON can carry it."""
    answer = outcome.output
    if not isinstance(answer, Answer):
        return outcome
    recorded = {"output": answer.output, "finish_reason": answer.finish_reason}
    if answer.cut_off:
        recorded["cut_off"] = True
    return replace(outcome, output=recorded, error=answer.error)


def _split(recorded: Any) -> tuple[Any, str | None]:
    return recorded["output"], recorded["finish_reason"]


def _in_terms_of_options(error: JournalError) -> JournalError:
    text = str(error).replace("`fresh`", option_of("fresh")).replace("run the job again", "run it again")
    return JournalError(text, path=error.path, fault=error.fault)
