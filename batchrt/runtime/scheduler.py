"""The scheduler: carry many inputs through one step, a bounded number at a time, in one task group."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextvars import copy_context
from time import perf_counter
from typing import Any, TypeAlias, cast

import anyio
import anyio.lowlevel
from anyio import CancelScope

from batchrt.config import RunConfig
from batchrt.errors import (
    DeadlineExceededError,
    ItemTimeoutError,
    SpendingLimitError,
    StrayCancelledError,
)
from batchrt.runtime.async_input import AsyncInput
from batchrt.runtime.context import drive
from batchrt.runtime.event_loop import Host
from batchrt.runtime.exception_notes import add_note
from batchrt.runtime.item import Item
from batchrt.runtime.observers import Observer, installed
from batchrt.runtime.run import Run
from batchrt.runtime.run_counts import RunCounts
from batchrt.runtime.spending import Payer
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand, strand_context
from batchrt.runtime.task_pool import TaskPool, Unbegun, error_of, unswallowed
from batchrt.runtime.withdrawals import Withdrawals
from batchrt.runtime.workers import Workers

__all__ = ["Deliver", "Scheduler"]

Deliver: TypeAlias = "Callable[[Item, Any, Exception | None], bool]"
"""Takes an item's output or error; says whether that delivered it. If not, the consumer calls
`Scheduler.delivered` when it has taken it."""


class Scheduler(Workers):
    """Carry `source` through `step` in a task group of its own.

    Args:
        run: the items' run; gets its task pool here.
        step: carries each input.
        source: the inputs, pulled one at a time as slots are free.
        config: the items' configuration, or one for each input.
        deliver: is given each outcome, in the order of completion.
        window: the most items that are admitted and not yet delivered.
        timeout: seconds an item may take.
        deadline: seconds all of it may take.
        fail_fast: stop at the first error instead of delivering it.
        parent: the item this is nested in.
        timed: fill in the items' `started` and `finished`.
        unit: the word for an item in messages; errors of anything but an `item` get their note from code that
            knows where they belong.
        room: says whether the consumer wants more; see also `delivered`.
        expected: how many inputs there are said to be. A hint: the source's own end counts.
        stoppable: `wind_down` may be called; every item that was pulled has an outcome then.
    """

    def __init__(
        self,
        run: Run,
        step: Step,
        source: Iterator[Any] | AsyncIterator[Any] | AsyncInput,
        *,
        config: RunConfig | Sequence[RunConfig],
        deliver: Deliver,
        window: int,
        deadline: float | None = None,
        fail_fast: bool = True,
        parent: Item | None = None,
        timed: bool = False,
        unit: str = "item",
        room: Callable[[], bool] | None = None,
        expected: int | None = None,
        stoppable: bool = False,
    ) -> None:
        super().__init__(
            run, source, config=config, window=window, parent=parent, room=room, expected=expected
        )
        self._step = step
        self._deliver = deliver
        self._deadline = deadline
        self._fail_fast = fail_fast
        self._timed = timed
        self._unit = unit
        self._base = copy_context()
        self._cut_short = False
        self._stopped = False
        self._cut: BaseException | None = None
        self._ends_at = math.inf
        self._too_late = False
        self._wound_down = False
        if stoppable:
            self._withdrawals = Withdrawals(run)

    @property
    def spending(self) -> Payer | None:
        """The budget of the run; `None` without a limit."""
        return self._run.spending

    @property
    def counts(self) -> RunCounts:
        """The counts of the run."""
        return self._run.counts

    @property
    def at_work(self) -> set[int]:
        """The indices of the items that have a leaf or a list under way; of a stoppable run."""
        return set() if self._withdrawals is None else self._withdrawals.at_work()

    async def run(self) -> None:
        """Carry everything through and return when nothing of it is running any more.

        Raises:
            DeadlineExceededError: when the deadline passed first.
            SpendingLimitError: when a limit of spending was reached; items under way then are delivered.
            BaseException: the first error, as itself, if `fail_fast`; and always an error of the source,
                and one that is no `Exception`.
        """
        observer = installed()
        await (self._run_unobserved() if observer is None else self._run_observed(observer))

    async def _run_observed(self, observer: Observer) -> None:
        run, config = self._run, self._shared_config or (self._configs[0] if self._configs else RunConfig())
        run.observer = observed = observer.run(run, config, self._base)
        observed.enter(self._base)
        run.enter(observed)
        if self._unit == "item":
            self._step = observed.step(self._step)
        failure: BaseException | None = None
        try:
            await self._run_unobserved()
        except BaseException as error:
            failure = error
            raise
        finally:
            is_packed = self._unit != "item"  # in lists, of which each is an item here
            observed.ended(failure, run.counts.list_inputs if is_packed else self._admitted)

    async def _run_unobserved(self) -> None:
        arrivals = self._run.arrivals
        arrivals.sources.append(self)
        self._run.source = self
        try:
            completed = await self._run_all()
        finally:
            arrivals.sources.remove(self)
            self._run.end()
            if self._run.calls:
                await self._run.wait_for_calls()
        if self._failure is not None:
            raise self._failure
        if not completed and not self._stopped:
            raise self._deadline_error() if self._is_past_deadline() else unswallowed(self._cut)
        spending = self._run.spending
        if self._cut_short and spending is not None and spending.ended is not None:
            raise spending.ended.again(started=False)

    async def _run_all(self) -> bool:
        if self._async_input is None:
            return await self._run_workers()
        completed, failure = False, None
        try:
            # A group around the workers', which the run's own end cancels: that a source may close in peace.
            async with anyio.create_task_group() as group:
                group.start_soon(Unbegun, self._feed, self._async_input, name="batchrt inputs")
                try:
                    completed = await self._run_workers()
                except anyio.get_cancelled_exc_class():
                    self._async_input.expose()
                    raise
                except BaseException as error:  # noqa: BLE001  raised below: the group would wrap it
                    failure = error
                await self._async_input.end()
        except BaseExceptionGroup as errors:
            failure = error_of(errors) if failure is None else failure
        if failure is not None:
            raise failure
        return completed

    async def _run_workers(self) -> bool:
        completed, failure = False, None
        try:
            async with anyio.create_task_group() as group:
                if self._deadline is not None:
                    self._ends_at = group.cancel_scope.deadline = anyio.current_time() + self._deadline
                self._group = group
                self._run.hire(TaskPool(group))
                self._yielded_at = perf_counter()
                if self._withdrawals is not None:
                    group.start_soon(Unbegun, self._withdrawals.keep, name="batchrt withdrawals")
                if self._stopped:
                    group.cancel_scope.cancel()
                if self._expected == 0:
                    self._look_at_nothing()
                self._recruit()
                if not self._workers:
                    self._is_over()  # there is nothing to do, or nothing left to be spent
                else:
                    try:
                        await self._finished.wait()
                    except BaseException as error:
                        self._cut = error
                        raise
                completed = not self._too_late
                group.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            failure = error_of(errors)
        if failure is not None:
            raise failure
        return completed

    def stop(self) -> None:
        """End the run without its outcomes: cancel all items under way."""
        self._stopped = self._drained = True  # items that never wait would not meet the cancellation
        self._cancel()

    def wind_down(self) -> None:
        """Pull no more inputs, let items at work finish, and withdraw those that wait; on the loop's thread.

        An item waits (for a quota, a retry, a provider that is down, a slot) if none of its strands has a
        slot: its own, its branches', those nested in it, that of its list. One that comes to wait later is
        withdrawn then.
        """
        self.pull_no_more()
        if self._finished.is_set():
            return
        self._drain()
        assert self._withdrawals is not None
        self._withdrawals.begin()

    def pull_no_more(self) -> None:
        """Record that `wind_down` will be called; from any thread, and from a signal handler."""
        if not self._finished.is_set():
            self._wound_down = self._drained = True

    @property
    def is_wound_down(self) -> bool:
        """Whether it was told to end before the inputs did."""
        return self._wound_down

    def _cancel(self) -> None:
        if self._group is not None:
            self._group.cancel_scope.cancel()
        if self._async_input is not None:
            self._async_input.cut()

    async def _feed(self, async_input: AsyncInput) -> None:
        try:
            await async_input.run()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001  raised by `run`
            self._fail(error, "raised by the inputs as they were closed")

    def _is_past_deadline(self) -> bool:
        return self._group is not None and anyio.current_time() >= self._group.cancel_scope.deadline

    def _deadline_error(self) -> DeadlineExceededError:
        seconds = self._deadline or 0.0
        return DeadlineExceededError(
            f"the run's deadline of {seconds:g} s passed with {self._admitted} {self._unit}s started; "
            "what had not finished was cancelled",
            seconds=seconds,
        )

    def offer(self) -> None:
        """Let new items of surrounding runs have the slots that this run gave back as it was cancelled."""
        if self._parent is not None:
            self._run.slots.offer()

    def _is_over(self) -> bool:
        """Whether no more items are to be begun; those under way are finished."""
        if self._deadline is not None and not self._drained and anyio.current_time() >= self._ends_at:
            self._end_in_time()
        if self._run.spending is not None and self._is_broke() and not (self._drained or self._seems_over):
            self._cut_short = True
            self._drain()
        return self._drained or self._failure is not None

    def _end_in_time(self) -> None:
        """End the run at its deadline, which the event loop cannot see while functions never await."""
        self._too_late = True
        self._drain()
        assert self._group is not None
        self._group.cancel_scope.cancel()

    def _is_broke(self) -> bool:
        spending = self._run.spending
        return spending is not None and spending.ended is not None

    def _admit(self, own: Host) -> Strand:
        """Return a strand for the next item; it has the worker's slot."""
        item = Item(self._admitted, self._parent)
        self._admitted += 1
        if self._admitted == self._expected:
            self._seems_over = True
            self._dismiss()
        elif not self._leading:
            self._recruit()
        config = self._shared_config
        if config is None:
            config = self._configs[item.index]
        strand = Strand(self._run, item, config, self._run.slots, has_slot=True)
        if self._withdrawals is not None:
            self._withdrawals.add(strand, own)
        return strand

    # The garbage collector walks through the objects of each waiting item, ten thousand times over: its
    # worker, this, the driver of the step, and no coroutine more.
    async def _carry(self, value: Any, own: Host) -> bool:
        """Carry `value` through; return whether its slot is left."""
        strand, output = self._admit(own), None
        failure: BaseException | None = None
        if self._timed:
            strand.item.started = anyio.current_time()
        try:
            timeout = strand.config.get("timeout")
            if timeout is None:
                output = await self._call(strand, value, own)
            else:
                with CancelScope(deadline=anyio.current_time() + timeout) as scope:
                    strand.scopes = (*strand.scopes, scope)
                    output = await self._call(strand, value, own)
                if scope.cancelled_caught:
                    failure = _timed_out(timeout, self._unit)
        except anyio.get_cancelled_exc_class() as error:
            if not await own.goes_on():
                self._close_cancelled(strand)
                raise
            failure = StrayCancelledError.of(error)
        except GeneratorExit:  # the loop was closed with this in it
            strand.close()
            raise
        except BaseException as error:  # noqa: BLE001  this item's outcome, or raised by `run`
            failure = error
        if own.is_disturbed():
            left = await own.error_left()
            failure = left if failure is None else failure
        holding = False
        try:
            self._settle(strand.item, output, failure)
            holding, strand.has_slot = strand.has_slot, False
        finally:
            strand.close()
        if holding and self._run.slots.wanted():
            self._run.slots.give()
            return False
        return holding

    def _close_cancelled(self, strand: Strand) -> None:
        """Close the strand of an item that was cancelled; one that was withdrawn is delivered."""
        # A nested run's slots are for the leaf that waits for it, which may go on.
        strand.give(newcomers=self._parent is None)
        strand.close()
        error = None if self._withdrawals is None else self._withdrawals.error_of(strand.item)
        assert self._group is not None
        if error is not None and not self._group.cancel_scope.cancel_called:
            self._settle(strand.item, None, error)

    def _call(self, strand: Strand, value: Any, own: Host) -> Awaitable[Any]:
        context = strand_context(strand, self._base)
        call = self._step.call
        coroutine = _at_once(call, value, strand) if self._step.inline else call(value, strand)
        return drive(context, coroutine, None, own)

    def _settle(self, item: Item, output: Any, failure: BaseException | None) -> None:
        if self._withdrawals is not None:
            self._withdrawals.remove(item)
        if failure is not None and not isinstance(failure, Exception):
            self._fail(failure, None)
            return
        if self._timed:
            item.finished = anyio.current_time()
        if failure is not None and not self._ends_by_itself(failure) and self._fail_fast:
            own = f"batchrt: item {item.index} failed; the rest was cancelled"
            self._fail(failure, own if self._unit == "item" else None)
        elif self._deliver(item, output, failure):
            self._delivered += 1

    def _ends_by_itself(self, failure: BaseException) -> bool:
        """Whether it is an error of the limit of spending that ended the run.

        Then items under way are finished, for they are paid.
        """
        # By its type: an instance may answer anything when it is asked for its class.
        if not issubclass(type(failure), SpendingLimitError):
            return False
        failure = cast("SpendingLimitError", failure)
        failure.started = True  # whatever it was of: this item was under way
        ends = self._is_broke()
        self._cut_short = self._cut_short or ends
        return ends

    def _fail(self, error: BaseException, note: str | None) -> None:
        if self._failure is None:
            self._failure = error
            self._cancel()
            if note is not None:
                add_note(error, note)


async def _at_once(call: StepCall, value: Any, strand: Strand) -> Any:
    return call(value, strand)


def _timed_out(seconds: float, unit: str) -> ItemTimeoutError:
    return ItemTimeoutError(f"the {unit} took longer than its timeout of {seconds:g} s", seconds=seconds)
