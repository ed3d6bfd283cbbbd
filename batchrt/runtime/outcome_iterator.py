"""An iterator over the outcomes of a run while it goes on, which can be ended gracefully."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, cast

from batchrt.config import cap_of
from batchrt.errors import DeadlineExceededError, RunStoppedError, SpendingLimitError
from batchrt.runtime.batch import Job, outcome_of
from batchrt.runtime.caller import Caller
from batchrt.runtime.item import Item
from batchrt.runtime.outcome import Outcome
from batchrt.runtime.portal import iterate
from batchrt.runtime.spending import Spending
from batchrt.runtime.step import ListRun
from batchrt.runtime.strand import current_strand
from batchrt.runtime.stream import State, Stream

__all__ = ["OutcomeIterator", "RunStatistics", "SyncOutcomeIterator"]

Out = TypeVar("Out")

LISTS_AHEAD: Final = 2
"""Lists, beside those in flight, that may wait for one before them."""
LISTS_AHEAD_PER_SLOT: Final = 20
INPUTS_AHEAD: Final = 8192
"""Inputs to which that may add up where lists are short: 50 MB of vectors of 1,536 numbers."""
UNCAPPED_LISTS: Final = 10
UNCAPPED_INPUTS: Final = 32_768
"""Inputs in flight and ahead without a cap on lists, and the fewest lists: 200 MB of such vectors. That is 16
of the longest lists that are usual: so much work that more of them at once bring nothing."""


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """Count the inputs of a run so far.

    Attributes:
        pulled: inputs that were taken from the source.
        delivered: outcomes that the consumer took.
        not_started: those of them whose input was never sent, for the run was stopped or had ended.
        in_flight: inputs with a leaf, a request or a list under way.
        waiting: inputs that have neither ended nor are in flight: throttled, between attempts, in the queue
            of a list, or pulled ahead.
        tokens: tokens spent so far, those of unfinished items included; `None` without a limit of spending.
        cost: money spent so far, likewise, in the prices' currency.
    """

    pulled: int = 0
    delivered: int = 0
    not_started: int = 0
    in_flight: int = 0
    waiting: int = 0
    tokens: float | None = None
    cost: float | None = None


class OutcomeIterator(Stream[Outcome[Out]], Generic[Out]):
    """Iterate over the outcomes of a run; see `Runnable.arun_iter`, and `Stream` for closing it.

    Each input that was pulled has one outcome, also if the run was stopped or ended at a limit; one that was
    never sent has the status "not started". Only `aclose`, a cancellation and an error of the inputs drop
    outcomes.
    """

    def __init__(self, job: Job, *, ordered: bool) -> None:
        super().__init__(job, ordered=ordered)
        self._stop_called = False
        self._delivered = self._not_started = 0

    async def next_chunk(self, most: int) -> list[Outcome[Out]]:
        """Wait for one outcome and return it with up to `most` - 1 others that are ready.

        Raises:
            StopAsyncIteration: there are no more.
            Exception: an error of the inputs, once earlier outcomes have been handed out.
        """
        if self._stop_called and self._state is not None:
            self._wind_down()  # a call that came as the run was started
        chunk = await super().next_chunk(most)
        self._delivered += len(chunk)
        for outcome in chunk:
            if outcome.error is not None and outcome.status == "not started":
                self._not_started += 1
        return chunk

    def stop(self) -> None:
        """End gracefully: pull no more inputs, let items in flight finish, withdraw those that wait.

        To be called from any thread, at any time; the iteration ends after the outcomes of all pulled inputs.
        A withdrawn item's error is a `RunStoppedError`: its status is "not started", or "cancelled" if a
        request of it had been answered or tried again before. An item waits if nothing of it is at work: it
        is throttled by a quota, between two attempts, held by a provider that is down, or queued for a list.
        """
        self._stop_called = True
        state = self._state
        if state is not None and state.scheduler is not None and not state.ended.is_set():
            state.scheduler.pull_no_more()
            state.loop.call(self._wind_down)

    def _wind_down(self) -> None:
        state = self._state
        if state is not None and state.scheduler is not None and not state.ended.is_set():
            state.scheduler.wind_down()

    @property
    def stopped(self) -> bool:
        """Whether `stop` ended the run, and not the end of its inputs and its work."""
        state = self._state
        if state is None or state.scheduler is None:
            return self._stop_called
        return state.scheduler.is_wound_down

    @property
    def ended(self) -> SpendingLimitError | DeadlineExceededError | None:
        """The error of the limit of spending or deadline that ended the run early; it is not raised."""
        return None if self._state is None else cast("_OutcomeState", self._state).limit_error

    def statistics(self) -> RunStatistics:
        """Return the counts so far; on the loop's thread, or once the run has ended."""
        state = cast("_OutcomeState | None", self._state)
        if state is None:
            return RunStatistics()
        return state.statistics(self._delivered, self._not_started)

    def _start(self) -> State:
        state = _OutcomeState(self._job, ordered=self._ordered)
        if self._stop_called and state.scheduler is not None:
            state.scheduler.wind_down()
        state.task = state.loop.start(state.host, copy_context(), "batchrt outcomes", state.end)
        return state


class _OutcomeState(State):
    """The state that a run and the consumer of its outcomes share."""

    def __init__(self, job: Job, *, ordered: bool) -> None:
        prices = job.config.get("prices")
        super().__init__(
            ordered=ordered, lead=job.lead, errors=True, expected=0, make=partial(outcome_of, prices)
        )
        self._settled = 0
        self._lists: _ListWindow | None = None
        if job.takes_lists:
            self._lists = _ListWindow(job, self.put)
            self.scheduler = self._lists.scheduler
        else:
            self.scheduler = job.open(self.put, fail_fast=False, room=self.room, timed=True, stoppable=True)

    def put(self, item: Item, output: Any, error: Exception | None) -> bool:
        self._settled += 1
        return super().put(item, output, error)

    @property
    def limit_error(self) -> SpendingLimitError | DeadlineExceededError | None:
        """Why the run ended early, if it was for a limit."""
        if issubclass(type(self._failure), SpendingLimitError | DeadlineExceededError):
            return cast("SpendingLimitError | DeadlineExceededError", self._failure)
        return None

    @property
    def _pulled(self) -> int:
        assert self.scheduler is not None
        return self.scheduler.pulled if self._lists is None else self._lists.pulled

    def statistics(self, delivered: int, not_started: int) -> RunStatistics:
        """Return the counts so far."""
        assert self.scheduler is not None
        at_work = self.scheduler.at_work
        in_flight = len(at_work) if self._lists is None else self._lists.unsettled(at_work)
        spending = self.scheduler.spending
        pulled = self._pulled
        waiting = 0 if self.ended.is_set() else pulled - self._settled - in_flight
        spent = (spending.tokens, spending.cost) if isinstance(spending, Spending) else (None, None)
        return RunStatistics(pulled, delivered, not_started, in_flight, waiting, *spent)

    def _took(self, count: int) -> None:
        assert self.scheduler is not None
        self.scheduler.delivered(count if self._lists is None else self._lists.took(count))

    def _is_filled(self) -> bool:
        return self._failure is None or self.limit_error is not None

    def _missing_error(self) -> Exception:
        error = self.limit_error
        if isinstance(error, SpendingLimitError):
            return error.again(started=False)
        return error or RunStoppedError("the run was stopped before the item was sent")

    def end(self) -> None:
        """Record that the run's task has ended."""
        self._expected = self._pulled
        if self._lists is not None and self._failure is None and self._lists.ended is not None:
            self._failure = self._lists.ended.again(started=False)
        super().end()


class _ListWindow:
    """Pull inputs in lists, of which a bounded number is in flight or waits for the consumer.

    The scheduler's items are the lists; one is delivered when the consumer has taken as many outcomes as the
    lists up to it have inputs.
    """

    def __init__(self, job: Job, put: Callable[[Item, Any, Exception | None], bool]) -> None:
        assert job.step.bulk is not None
        parent = current_strand()
        self._run: ListRun = job.step.bulk(
            job.config, put, fail_fast=False, parent=parent.item if parent else None
        )
        self._ended_lists: deque[int] = deque()
        self._taken = 0
        inputs = cast("Iterable[Any] | AsyncIterable[Any]", job.inputs)
        lists = Job(self._run.step, self._run.pack(inputs), job.config, job.config)
        self.scheduler = lists.open(
            self._end_list, fail_fast=False, unit="list", stoppable=True, window=_window(job)
        )

    @property
    def pulled(self) -> int:
        """How many inputs were pulled."""
        return self._run.pulled + self.scheduler.ahead

    @property
    def ended(self) -> SpendingLimitError | None:
        """The limit of spending that kept lists from being sent."""
        return self._run.ended

    def unsettled(self, lists: Iterable[int]) -> int:
        """Return how many inputs of these lists have no outcome yet."""
        return sum(map(self._run.unsettled, lists))

    def _end_list(self, item: Item, _output: Any, error: Exception | None) -> bool:
        self._ended_lists.append(self._run.end_list(item.index, error))
        return False

    def took(self, outcomes: int) -> int:
        """Note outcomes that the consumer took; return how many lists more that delivers."""
        self._taken += outcomes
        lists = 0
        while self._ended_lists and self._taken >= self._ended_lists[0]:
            self._taken -= self._ended_lists.popleft()
            lists += 1
        return lists


def _window(job: Job) -> int:
    """Return how many lists may be in flight or wait for one before them."""
    size, cap, window = job.step.lists, cap_of(job.config), job.config.get("window")
    if window is not None:
        return max(1, window // size)
    if cap is None:
        return max(UNCAPPED_LISTS, UNCAPPED_INPUTS // size)
    return cap + max(LISTS_AHEAD, min(INPUTS_AHEAD // size, LISTS_AHEAD_PER_SLOT * cap))


class SyncOutcomeIterator(Iterator[Outcome[Out]], Generic[Out]):
    """Iterate over the outcomes of a run from sync code, as `OutcomeIterator` does.

    `close`, or the end of a `with` block, ends the run.
    """

    def __init__(self, job: Job, caller: Caller, *, ordered: bool) -> None:
        self._outcomes: OutcomeIterator[Out] = OutcomeIterator(job, ordered=ordered)
        self._iterator = iterate(self._outcomes, caller)

    def __next__(self) -> Outcome[Out]:
        return next(self._iterator)

    def close(self) -> None:
        """End the run and return when nothing of it is running any more."""
        self._iterator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stop(self) -> None:
        """End gracefully; see `OutcomeIterator.stop`."""
        self._outcomes.stop()

    @property
    def stopped(self) -> bool:
        """Whether `stop` ended the run."""
        return self._outcomes.stopped

    @property
    def ended(self) -> SpendingLimitError | DeadlineExceededError | None:
        """The error of the limit of spending or deadline that ended the run early; it is not raised."""
        return self._outcomes.ended

    def statistics(self) -> RunStatistics:
        """Return the counts so far."""
        return self._outcomes.statistics()
