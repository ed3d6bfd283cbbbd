"""A streamed job: rows are written as they come, in their order or in that of their ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from anyio.abc import TaskGroup

from batchrt import (
    AbortPolicy,
    ChatOpenAI,
    ContextLengthError,
    OpenAIEmbeddings,
    Outcome,
    OutputError,
    RunConfig,
    Runnable,
)
from batchrt.cli.answers import Answer
from batchrt.cli.budget import Budget
from batchrt.cli.console import complain
from batchrt.cli.counts import kept_apart, left_out_lines, output_lines
from batchrt.cli.feed import Feed
from batchrt.cli.job import Job
from batchrt.cli.options import JobSettings
from batchrt.files import Entry, RowWriter, Sink, Source, VectorSink, without_traces

__all__ = ["StreamedJob", "name_option"]

_CHUNK: Final = 256
_UNFINISHED: Final = ("cancelled", "not started")
"""Statuses of rows that are not written, for the job ended before them."""


def name_option(error: ContextLengthError) -> None:
    """Have the error's message name the option in place of the library's parameter."""
    error.message = error.message.replace("truncate=True", "--truncate auto")


class StreamedJob(Job):
    """Carry a source's rows through a model to a sink.

    Args:
        chain: from a row to its `Answer`, or to its vector.
        feed: the rows.
        sink: where they go.
        model: the model; closed at the end.
        config: of the run, without its limits.
        settings: as they were given.
        budget: the limits of spending.
        source: where the rows come from.

    Attributes:
        sink: where the rows go.
    """

    def __init__(
        self,
        chain: Runnable[Any, Any],
        feed: Feed,
        sink: Sink | VectorSink,
        *,
        model: ChatOpenAI | OpenAIEmbeddings,
        config: RunConfig,
        settings: JobSettings,
        budget: Budget,
        source: Source,
    ) -> None:
        self.sink: Sink | VectorSink = sink
        self._noun = "list" if isinstance(sink, VectorSink) else None
        self._feed = feed
        limited = budget.limit({**config, "max_concurrency": settings.max_concurrency})
        ordered = not (settings.unordered or settings.follow)
        self._outcomes = chain.arun_iter(
            feed.inputs(), limited, ordered=ordered, room=feed.has_room, on_outcome=self._record
        )
        super().__init__(
            feed.counts,
            self._outcomes,
            model=model,
            settings=settings,
            budget=budget,
            source=source,
            abort_policy=AbortPolicy(max_wait=settings.max_wait, patience=settings.patience),
        )
        self._aborted: set[int] = set()
        self._broken: OutputError | None = None
        self._writer: RowWriter

    @property
    def is_complete(self) -> bool:
        """Whether the output may replace an older one: no row is missing, and not all of them failed."""
        nothing_answered = self.counts.failed and not self.counts.answered
        return not (self._ended_early or nothing_answered or self._broken is not None)

    def settle(self) -> None:
        """Keep an older output unless the new one is complete."""
        if not self.is_complete:
            self.sink.mark_partial()

    async def _carry(self, helpers: TaskGroup) -> None:
        writer = self._writer = RowWriter(self.sink)
        helpers.start_soon(self._watch_output, writer)
        async with self._model, self._outcomes as outcomes:
            while True:
                try:
                    chunk = await outcomes.next_chunk(_CHUNK)
                except StopAsyncIteration:
                    return
                try:
                    await writer.put(self._entries(chunk))
                except OutputError as error:
                    self._break(error)

    async def _finish(self) -> None:
        """Write the rows that ended while others before them had not."""
        entries = self._entries(self._outcomes.take_ready())
        self._count_run()
        if self._broken is not None:
            return
        try:
            await self._writer.put(entries)
            await self._writer.drain()
        except OutputError as error:
            self._broken = error

    def _record(self, outcome: Outcome[Any]) -> None:
        """Count an outcome, and abort the job if it says so; before another row is begun."""
        counts, output, error = self.counts, outcome.output, outcome.error
        if outcome.usage is not None:
            counts.add_usage(outcome.usage)
        if error is None:
            counts.answered += 1
        if isinstance(output, Answer):
            error = output.error
            if output.cut_off:
                counts.add_cut_off(output.finish_reason or "")
        if error is None:
            counts.done += 1
            self._abort_policy.record_success()
        elif outcome.status in _UNFINISHED:
            counts.cancelled += outcome.status == "cancelled"
        elif self._abort_policy.record_failure(without_traces(error)):
            if isinstance(error, ContextLengthError):
                name_option(error)
            counts.add_failure(self._feed.row(outcome.index).number, error)
        else:  # it failed along with the whole job
            self._aborted.add(outcome.index)
            counts.cancelled += 1

    def _entries(self, outcomes: Iterable[Outcome[Any]]) -> list[Entry]:
        """Return the rows of outcomes that are to be written."""
        entries: list[Entry] = []
        for outcome in outcomes:
            row, output, error = self._feed.take(outcome.index), outcome.output, outcome.error
            if error is not None and (outcome.status in _UNFINISHED or outcome.index in self._aborted):
                continue
            if isinstance(output, Answer):
                entries.append(Entry(row, output.output, output.error, output.finish_reason))
            else:
                entries.append(Entry(row, output, error))
        return entries

    async def _watch_output(self, writer: RowWriter) -> None:
        try:
            await writer.keep_draining()
        except OutputError as error:
            self._break(error)

    def _break(self, error: OutputError) -> None:
        self._broken = error
        self._end()

    def conclude(self) -> None:
        """Say how it went; raises OutputError if the output could not be written."""
        if self._broken is not None:
            for line in kept_apart(self.sink):
                complain(line)
            raise self._broken
        super().conclude()

    def _output_lines(self) -> Iterable[str]:
        return output_lines(self.sink)

    def _losses(self) -> Iterable[str]:
        return (*left_out_lines(self.sink), *kept_apart(self.sink))
