"""One run of a job: rows go in, outcomes are recorded, and those on the disk are shown."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from itertools import chain as chained
from time import perf_counter
from typing import Any, Final, TypeAlias

import anyio
import anyio.lowlevel
from anyio import CancelScope

from batchrt.config import RunConfig
from batchrt.errors import DeadlineExceededError, RunStoppedError, SpendingLimitError
from batchrt.jobs.journal import Journal, RowSource
from batchrt.jobs.matching import Matcher, Row
from batchrt.jobs.records import Codec, encode_input
from batchrt.jobs.rows import Given
from batchrt.jobs.unordered_output import UnorderedOutput
from batchrt.limits.abort_policy import AbortPolicy
from batchrt.runnables.base import Runnable
from batchrt.runtime.clock import Clock
from batchrt.runtime.event_loop import LoopHandle, Signal
from batchrt.runtime.outcome import Outcome
from batchrt.runtime.outcome_iterator import OutcomeIterator, RunStatistics
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["JobRun", "Observer", "Refiner"]

Observer: TypeAlias = Callable[[Outcome[Any]], object]
"""Called with each outcome once it is on the disk, on the event loop."""
Refiner: TypeAlias = Callable[[Outcome[Any]], Outcome[Any]]
"""Returns an outcome as it is to be recorded; one with an error and an output counts as failed."""

_CHUNK: Final = 64
"""Outcomes that are taken from the run at a time."""
_LONGEST_LOOK: Final = 0.005
"""Seconds for which rows are matched before the event loop may do other work."""
_OF_THE_RUN: Final = (RunStoppedError, SpendingLimitError, DeadlineExceededError)

_PAUSE: Final = Row(-1, None, "", (b"", b""))
"""Stands in place of a row, and lets the event loop do other work."""


class _RowStep(Runnable[Row, Any]):
    """Run a chain on the value of each row."""

    def __init__(self, chain: Runnable[Any, Any]) -> None:
        self._chain = chain

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step = self._chain._step(kwargs)
        inner = step.call

        async def call(row: Row, strand: Strand) -> Any:
            if row is _PAUSE:
                await anyio.lowlevel.checkpoint()
                return None
            if row.error is not None:
                raise row.error
            # While the row runs its item has the row's place, which errors name; the run knows it by the
            # order in which it was pulled.
            item = strand.item
            pulled, item.index = item.index, row.position
            try:
                return inner(row.value, strand) if step.inline else await inner(row.value, strand)
            finally:
                item.index = pulled

        return Step.of(call, [step])


class _RowValue(Runnable[Row, Any]):
    """Take the value of each row, before a chain that packs its inputs into lists as they are pulled."""

    def _build(self, kwargs: Mapping[str, Any]) -> Step:  # noqa: ARG002  it takes none
        return Step(_value_of, inline=True)


def _value_of(row: Row, _strand: Strand) -> Any:
    if row.error is not None:
        raise row.error
    return row.value


class JobRun:
    """Run the rows that have no outcome yet, and record the outcomes as they come.

    An outcome is handed to the journal at once, so that its slot goes on, and is counted and shown when it
    is on the disk. A killed process sends again what was in flight and one group of commits.

    Args:
        chain: the chain.
        config: of the run.
        observe: see `Observer`.
        refine: see `Refiner`.
        abort_policy: decides when the run is stopped, by its `on_abort`; by default `stop` is called.
        show: called now and then with the number of outcomes that are on the disk, and of those that failed.

    Attributes:
        output: gets the places of outcomes that are on the disk, if it is set.
        interrupted: rows without an outcome that stands, since the provider let no request through.
        not_started: rows that were read and not sent.
        superseded: changed rows with an outcome of this run.
        at_end: whether all rows of the source were read.
        ended: why the run ended early, or `None`.
    """

    def __init__(
        self,
        chain: Runnable[Any, Any],
        config: RunConfig | None,
        observe: Observer | None,
        *,
        refine: Refiner | None = None,
        abort_policy: AbortPolicy | None = None,
        show: Callable[[int, int], object] | None = None,
    ) -> None:
        self.output: UnorderedOutput | None = None
        self.interrupted: int = 0
        self.not_started: int = 0
        self.superseded: int = 0
        self.at_end: bool = False
        self.ended: str | None = None
        self._packs = chain._step().bulk is not None
        self._step: Runnable[Row, Any] = _RowValue() | chain if self._packs else _RowStep(chain)
        self._config = config
        self._observe = observe
        self._refine = refine
        self._show = show
        self._shown = self._failures_shown = 0
        if abort_policy is None:
            abort_policy = AbortPolicy(max_wait=math.inf)
            abort_policy.on_abort = self.stop
        self._abort_policy = abort_policy
        self._doubtful: list[tuple[Row, Outcome[Any]]] = []
        self._refusal: Exception | None = None
        self._journal: Journal
        self._matcher: Matcher
        self._codec: Codec
        self._clock = Clock()
        self._loop = LoopHandle.current()
        self._scope = CancelScope()
        self._failure: BaseException | None = None
        self._pending: dict[int, Row] = {}
        self._pulled = 0
        self._confirmed: deque[list[Any]] = deque()
        self._room: Signal | None = None
        self._iterator: OutcomeIterator[Any] | None = None
        self._stopped = False
        self._cancelled = False
        self._in_flight = 0

    def stop(self) -> None:
        """End gracefully: rows in flight are finished, and those that wait are not started."""
        self._stopped = True
        if self._iterator is not None:
            self._iterator.stop()

    def cancel(self) -> None:
        """End at once, on the loop's thread: rows in flight are cancelled."""
        self._stopped = self._cancelled = True
        self._in_flight = self.statistics().in_flight
        self._scope.cancel()

    def statistics(self) -> RunStatistics:
        """Return the counts of the rows that were run."""
        return RunStatistics() if self._iterator is None else self._iterator.statistics()

    @property
    def limit_error(self) -> SpendingLimitError | DeadlineExceededError | None:
        """The error of the limit at which the run ended."""
        return None if self._iterator is None else self._iterator.ended

    def end_early(self, reason: str) -> None:
        """Record that rows are missing though the source has ended."""
        self.at_end = False
        self.ended = reason

    def committed(self, tokens: list[Any]) -> None:
        """Take outcomes that are on the disk; called in the journal's thread."""
        if self.output is not None:
            self.output.add([position for position, _ in tokens])
        self._confirmed.append(tokens)
        self._loop.soon(self._confirm)

    async def run(
        self,
        rows: Iterator[Given] | AsyncGenerator[Given, None],
        journal: Journal,
        matcher: Matcher,
        codec: Codec,
    ) -> None:
        """Run `rows`; to be called once.

        Args:
            rows: of the source.
            journal: opened with `committed` of this object.
            matcher: matches rows with the journal.
            codec: makes records.

        Raises:
            JournalError: the journal cannot be written; what was committed stays.
            TypeError: an input cannot be kept in a journal.
            Exception: an error of the source, or of the observer.
        """
        self._journal, self._matcher, self._codec = journal, matcher, codec
        with self._scope:
            if isinstance(rows, AsyncIterable):
                inputs: Any = self._async_inputs(rows)
            else:
                inputs = await self._inputs(rows)
            if inputs is not None and not self._stopped:
                run = self._step.arun_iter(inputs, self._config, ordered=False, on_outcome=self._record)
                await self._consume(run)
        if self._failure is not None:
            raise self._failure
        self._settle()
        journal.flush()
        self._confirm()
        if self._failure is not None:
            raise self._failure
        if self._show is not None:
            self._show(self._shown, self._failures_shown)
        self._end()

    async def _consume(self, iterator: OutcomeIterator[Any]) -> None:
        self._iterator = iterator
        if self._stopped:
            iterator.stop()
        async with iterator:
            while True:
                try:
                    await iterator.next_chunk(_CHUNK)
                except StopAsyncIteration:
                    break
                while self._journal.is_full:
                    self._room = Signal()
                    if self._journal.is_full:  # the thread may have made room before it saw the signal
                        await self._room.wait()
        if iterator.ended is not None:
            self.ended = str(iterator.ended)

    # Rows in

    async def _inputs(self, rows: Iterator[Given]) -> Iterator[Row] | AsyncIterator[Row] | None:
        """Return the rows to run, after those at the start that need not be; `None` if there is none."""
        began = perf_counter()
        matched = self._matched(rows)
        for row in matched:
            if row is not None:
                matched = chained((row,), matched)
                in_turns = self._packs and not self._matcher.is_first
                return self._in_turns(matched) if in_turns else self._following(matched)
            if perf_counter() - began > _LONGEST_LOOK:
                if self._show is not None:
                    self._show(self._shown, self._failures_shown)
                await anyio.lowlevel.checkpoint()
                began = perf_counter()
            if self._stopped:
                return None
        return None

    def _following(self, matched: Iterator[Row | None]) -> Iterator[Row]:
        began = perf_counter()
        for row in matched:
            if row is not None:
                yield self._noted(row)
                began = perf_counter()
            elif perf_counter() - began > _LONGEST_LOOK:
                yield self._noted(_PAUSE)
                began = perf_counter()

    async def _in_turns(self, matched: Iterator[Row | None]) -> AsyncIterator[Row]:
        """Yield rows that are packed into lists: while they are searched, a list cannot pause."""
        began = perf_counter()
        for row in matched:
            if row is not None:
                yield self._noted(row)
            if perf_counter() - began > _LONGEST_LOOK:
                await anyio.lowlevel.checkpoint()
                began = perf_counter()

    def _matched(self, rows: Iterator[Given]) -> Iterator[Row | None]:
        """Yield the rows to run, and `None` for rows that need not be."""
        match = self._matcher.match
        for value, recorded, error in rows:
            to_run = match(value, encode_input(recorded), error)
            if to_run:
                yield from to_run
            else:
                yield None
        yield from self._matcher.finish()
        self.at_end = True

    async def _async_inputs(self, rows: AsyncGenerator[Given, None]) -> AsyncGenerator[Row, None]:
        async with aclosing(rows):
            async for value, recorded, error in rows:
                for row in self._matcher.match(value, encode_input(recorded), error):
                    yield self._noted(row)
        for row in self._matcher.finish():
            yield self._noted(row)
        self.at_end = True

    def _noted(self, row: Row) -> Row:
        self._pending[self._pulled] = row
        self._pulled += 1
        return row

    # Outcomes out

    def _record(self, outcome: Outcome[Any]) -> None:
        row = self._pending.pop(outcome.index)
        if row is _PAUSE:
            return
        if self._refine is not None:
            outcome = self._refine(outcome)
        if outcome.error is None:
            self._abort_policy.record_success()
            self._put(row, outcome)
        elif self._stands(row, outcome, outcome.error):
            self._put(row, outcome)
        if self._doubtful and self._abort_policy.refusal is None:
            self._put_doubtful()

    def _put(self, row: Row, outcome: Outcome[Any]) -> None:
        try:
            record = self._codec.record(outcome, self._clock.wall())
        except TypeError as error:  # the row was paid for; nothing would be gained by ending the job
            outcome = replace(outcome, output=None, error=error)
            record = self._codec.record(outcome, self._clock.wall())
        source = RowSource(*row.keys, self._matcher.chain, row.given)
        token = (row.position, outcome)
        if row.old is not None:
            self.superseded += 1
            self._journal.replace(row.old)
        if row.entry is None:
            self._journal.insert(row.position, source, record, token)
        else:
            self._journal.update(row.entry, source, record, token)

    def _stands(self, row: Row, outcome: Outcome[Any], error: Exception) -> bool:
        """Whether the error of a row is its own outcome; that of the run or of the provider is not.

        A refusal that may be the row's own, or that of a wrong model, is put off until another row gets an
        answer or the run ends.
        """
        if isinstance(error, _OF_THE_RUN):
            self.not_started += outcome.status == "not started"
            self.interrupted += outcome.status != "not started"
            return False
        policy = self._abort_policy
        if not policy.record_failure(error) or policy.is_of_provider(error):
            self.interrupted += 1
            self._refusal = error
            return False
        if policy.refusal is error:
            self._doubtful.append((row, outcome))
            return False
        return True

    def _put_doubtful(self) -> None:
        doubtful, self._doubtful = self._doubtful, []
        for row, outcome in doubtful:
            self._put(row, outcome)

    def _settle(self) -> None:
        """Decide on the rows whose outcomes are not recorded, once the last row has ended."""
        policy = self._abort_policy
        if not policy.is_aborted:
            self._put_doubtful()
        self.interrupted += len(self._doubtful)
        if self._cancelled:
            unfinished = sum(row is not _PAUSE for row in self._pending.values())
            in_flight = min(unfinished, self._in_flight)
            self.interrupted += in_flight
            self.not_started += unfinished - in_flight
        refusal = policy.refusal if policy.is_aborted else self._refusal
        if refusal is not None and self.ended is None:
            self.ended = f"{type(refusal).__name__}: {refusal}"

    def _confirm(self) -> None:
        """Show outcomes that are on the disk; on the loop's thread."""
        try:
            while self._confirmed:
                tokens = self._confirmed.popleft()
                for position, outcome in tokens:
                    if self._observe is not None:
                        self._observe(_at(position, outcome))
                if self._show is not None:
                    self._shown += len(tokens)
                    self._failures_shown += sum(outcome.error is not None for _, outcome in tokens)
                    self._show(self._shown, self._failures_shown)
            self._journal.check()
            if self.output is not None:
                self.output.check()
        except BaseException as error:  # noqa: BLE001  raised by `run`
            if self._failure is None:
                self._failure = error
            self._scope.cancel()
        if self._room is not None:
            self._room.set()

    def _end(self) -> None:
        if self._stopped and self.ended is None and not self.at_end:
            self.ended = "it was stopped"


def _at(position: int, outcome: Outcome[Any]) -> Outcome[Any]:
    """Return `outcome` with its row's place."""
    if outcome.index == position:
        return outcome
    values = {name: getattr(outcome, name) for name in Outcome.__slots__}
    return Outcome(**{**values, "index": position})
