"""An iterator over the outcomes of a run while it goes on, which can be ended gracefully."""

from __future__ import annotations

import sys
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
from batchrt.runtime.portal import fetches
from batchrt.runtime.progress_bar import ProgressBar
from batchrt.runtime.slots import Slots
from batchrt.runtime.spending import Spending
from batchrt.runtime.step import ListRun
from batchrt.runtime.strand import current_strand
from batchrt.runtime.stream import Make, State, Stream
from batchrt.runtime.sync_callbacks import check_sync, checked_sync

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
        retries: attempts after the first, those of unfinished items included; of a list once, however many
            inputs it has.
        lists: lists that were sent, each half of a list that failed included.
        list_inputs: inputs in those lists, equal ones of a list once.
        cached: inputs that were answered from the response cache, or by an equal request in flight.
        estimated_tokens: the estimated tokens of embeddings whose answer had no usage; no outcome has them.
    """

    pulled: int = 0
    delivered: int = 0
    not_started: int = 0
    in_flight: int = 0
    waiting: int = 0
    tokens: float | None = None
    cost: float | None = None
    retries: int = 0
    lists: int = 0
    list_inputs: int = 0
    cached: int = 0
    estimated_tokens: float = 0.0


class OutcomeIterator(Stream[Outcome[Out]], Generic[Out]):
    """Iterate over the outcomes of a run; see `Runnable.arun_iter`, and `Stream` for closing it.

    Each input that was pulled has one outcome, also if the run was stopped or ended at a limit; one that was
    never sent has the status "not started". After `aclose`, a cancellation or an error of the inputs, the
    outcomes that were ready are left for `take_ready`; unfinished items have none.
    """

    def __init__(
        self,
        job: Job,
        *,
        ordered: bool,
        room: Callable[[], bool] | None = None,
        on_outcome: Callable[[Outcome[Any]], object] | None = None,
    ) -> None:
        super().__init__(job, ordered=ordered)
        for name, function in (("room", room), ("on_outcome", on_outcome)):
            if function is not None:
                check_sync(name, function)
        self._room = room
        self._on_outcome = on_outcome
        self._stop_called = False
        self._delivered = self._not_started = 0

    async def next_chunk(self, most: int) -> list[Outcome[Out]]:
        """Wait for one outcome and return it with up to `most` - 1 others that are ready.

        Raises:
            StopAsyncIteration: there are no more.
            Exception: an error of the inputs, once earlier outcomes have been handed out.
        """
        state = self._state
        if state is not None and self._stop_called:
            self._wind_down()  # a call that came as the run was started
        if state is not None and self._room is not None:
            cast("_OutcomeState", state).look_for_room()
        return self._handed_out(await super().next_chunk(most))

    def take_ready(self) -> list[Outcome[Out]]:
        """Return the outcomes that are ready, without waiting.

        To be called on the loop's thread, or once the run has ended, also after `aclose` or a cancellation of
        the consumer: work that was paid for is not lost. Once the run has ended, outcomes in input order may
        have gaps, for inputs that were not finished.
        """
        state = cast("_OutcomeState | None", self._state)
        return [] if state is None else self._handed_out(state.take_ready())

    def _handed_out(self, chunk: list[Outcome[Out]]) -> list[Outcome[Out]]:
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
    def slots(self) -> Slots | None:
        """The slots of the run; `None` before it has begun."""
        return None if self._state is None or self._state.scheduler is None else self._state.scheduler.slots

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
        state = _OutcomeState(
            self._job, ordered=self._ordered, wanted=self._room, on_outcome=self._on_outcome
        )
        if self._stop_called and state.scheduler is not None:
            state.scheduler.wind_down()
        state.task = state.loop.start(state.host, copy_context(), "batchrt outcomes", state.end)
        return state


class _OutcomeState(State):
    """The state that a run and the consumer of its outcomes share."""

    def __init__(
        self,
        job: Job,
        *,
        ordered: bool,
        wanted: Callable[[], bool] | None,
        on_outcome: Callable[[Outcome[Any]], object] | None,
    ) -> None:
        make = partial(outcome_of, job.config.get("prices"))
        super().__init__(
            ordered=ordered,
            lead=job.lead,
            errors=True,
            expected=0,
            make=make if on_outcome is None else partial(self._make_and_tell, make, on_outcome),
        )
        self._wanted = wanted
        self._settled = 0
        self._cancelled = False
        self._callback_error: BaseException | None = None
        self._lists: _ListWindow | None = None
        put = self.counting(ProgressBar.of(job.config, job.expected))
        if job.takes_lists:
            self._lists = _ListWindow(job, put, self._is_wanted)
            self.scheduler = self._lists.scheduler
        else:
            self.scheduler = job.open(put, fail_fast=False, room=self.room, timed=True, stoppable=True)

    def put(self, item: Item, output: Any, error: Exception | None) -> bool:
        self._settled += 1
        return super().put(item, output, error)

    def _make_and_tell(
        self, make: Make, on_outcome: Callable[[Any], object], item: Item, output: Any, error: Any
    ) -> Any:
        outcome = make(item, output, error)
        try:
            answer = on_outcome(outcome)
            if answer is not None:
                checked_sync("on_outcome", answer)
        except BaseException as failure:  # noqa: BLE001  raised by the consumer's `anext`
            if self._callback_error is None:
                self._callback_error = failure
            self.cancel()
        return outcome

    def room(self) -> bool:
        return super().room() and self._is_wanted()

    def _is_wanted(self) -> bool:
        """Whether another input is wanted; one always is if no outcome is left whose end could make room."""
        if self._wanted is None or checked_sync("room", self._wanted()):
            return True
        assert self.scheduler is not None
        return not self.scheduler.outstanding

    def look_for_room(self) -> None:
        """Have the run ask for room again."""
        if not self.ended.is_set():
            self._took(0)

    def take_ready(self) -> list[Any]:
        """Return what is ready; once the run has ended, also what was held back."""
        chunk: list[Any] = []
        if self.ended.is_set():
            self.fill(sys.maxsize)
        chunk += self.take(len(self.ready))
        if self._ordered and self.ended.is_set():
            chunk += (self._ahead.pop(index) for index in sorted(self._ahead))
        return chunk

    def cancel(self) -> None:
        self._cancelled = True
        super().cancel()

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
        spent = spending if isinstance(spending, Spending) else None
        counts = self.scheduler.counts
        return RunStatistics(
            pulled,
            delivered,
            not_started,
            in_flight,
            waiting,
            None if spent is None else spent.tokens,
            None if spent is None else spent.cost,
            retries=counts.retries,
            lists=counts.lists,
            list_inputs=counts.list_inputs,
            cached=counts.cached,
            estimated_tokens=counts.estimated_tokens,
        )

    def _took(self, count: int) -> None:
        assert self.scheduler is not None
        self.scheduler.delivered(count if self._lists is None else self._lists.took(count))

    def _is_filled(self) -> bool:
        # Of a run that was cancelled it is not known which items were sent.
        return not self._cancelled and (self._failure is None or self.limit_error is not None)

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
        if self._callback_error is not None:
            self._failure = self._callback_error
        super().end()


class _ListWindow:
    """Pull inputs in lists, of which a bounded number is in flight or waits for the consumer.

    The scheduler's items are the lists; one is delivered when the consumer has taken as many outcomes as the
    lists up to it have inputs.
    """

    def __init__(
        self, job: Job, put: Callable[[Item, Any, Exception | None], bool], room: Callable[[], bool]
    ) -> None:
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
            self._end_list, fail_fast=False, unit="list", stoppable=True, window=_window(job), room=room
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

    `close`, or the end of a `with` block, ends the run. `room` and `on_outcome` are called in the thread of
    the event loop that the run is on.
    """

    def __init__(self, job: Job, caller: Caller, **options: Any) -> None:
        self._outcomes: OutcomeIterator[Out] = OutcomeIterator(job, **options)
        self._fetched: deque[Outcome[Out]] = deque()
        self._fetches = fetches(self._outcomes, caller, self._fetched)

    def __next__(self) -> Outcome[Out]:
        if not self._fetched:
            next(self._fetches)
        return self._fetched.popleft()

    def take_ready(self) -> list[Outcome[Out]]:
        """Return the outcomes that are ready, without waiting.

        While the run goes on these are the ones that were fetched with the last one; after `close` or an
        interrupt, all that were ready as it ended.
        """
        fetched, self._fetched = self._fetched, deque()
        return [*fetched, *(self._outcomes.take_ready() if self._outcomes.over else ())]

    def close(self) -> None:
        """End the run and return when nothing of it is running any more."""
        self._fetches.close()

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
    def slots(self) -> Slots | None:
        """The slots of the run; `None` before it has begun."""
        return self._outcomes.slots

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
