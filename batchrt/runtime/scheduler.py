"""The window: carry many inputs through one step, a bounded number at a time.

Workers loop: take a slot, pull an input, carry it through, keep the slot for the next one. A worker that
cannot get a slot either *leads* (at most one does: it waits for the next free slot, behind all strands
that are under way) or rests. Whoever admits an item sees to it that there is a leader, so workers are
started one by one as slots are free, items start in input order, and when strands give their slots up (a
retry sleeps) others get to work.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextvars import copy_context
from itertools import chain
from time import perf_counter
from typing import Any, Final, TypeAlias, cast

import anyio
import anyio.lowlevel
from anyio import CancelScope

from batchrt.config import RunConfig
from batchrt.errors import (
    DeadlineExceededError,
    ItemTimeoutError,
    RunStoppedError,
    SpendingLimitError,
    StrayCancelledError,
)
from batchrt.runtime.async_input import AsyncInput
from batchrt.runtime.context import drive
from batchrt.runtime.event_loop import Host, Signal, Unbegun, error_of, unswallowed
from batchrt.runtime.exception_notes import add_note
from batchrt.runtime.run import Item, Run, Step, StepCall, Strand, strand_context
from batchrt.runtime.slots import Waiter
from batchrt.runtime.spending import Payer
from batchrt.runtime.task_pool import TaskPool

__all__ = ["Deliver", "Scheduler"]

Deliver: TypeAlias = "Callable[[Item, Any, Exception | None], bool]"
"""Takes an item's output or error; says whether that delivered it. If not, the consumer calls
`Scheduler.delivered` when it has taken it."""

UNCAPPED_HELD: Final = 100
"""Strands that may be held up, by a provider's quota, before no more items are admitted, where no cap says
how many: as with a cap, enough to fill the quota, and not so many that they wait all of their `timeout`."""

MAX_HOG_SECONDS: Final = 0.005
"""How long workers may go on without a checkpoint when no item waits for anything: a service's other
tasks share the loop. Node's and Tokio's guides ask for a yield every 10-100 ms; this is well below."""


WITHDRAWAL_SECONDS: Final = 0.1
"""How often a run that ends gracefully looks for items that have come to wait."""


class Scheduler:
    """Carry `source` through `step` in a task group of its own.

    Args:
        run: what the items share; gets its task_pool here.
        step: what to do with each input.
        source: the inputs, pulled one at a time as slots are free.
        config: the items' configuration, or one for each input.
        deliver: is given each outcome, in the order of completion.
        window: the most items that are admitted and not yet delivered.
        timeout: seconds an item may take.
        deadline: seconds all of it may take.
        fail_fast: stop at the first error instead of delivering it.
        parent: the item this is nested in.
        timed: fill in the items' `started` and `finished`.
        unit: what an item is called in messages; errors of anything but an `item` are noted by whoever
            knows where they belong.
        room: says whether the consumer wants more; see also `delivered`.
        expected: how many inputs there are said to be. A hint: what counts is where the source ends.
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
        self._run = run
        self._step = step
        # Not by `isinstance`: an iterator need not have `__iter__`.
        plain = hasattr(type(source), "__next__")
        self._iterator = cast("Iterator[Any]", source) if plain else None
        if plain or isinstance(source, AsyncInput):
            self._feeder = None if plain else cast("AsyncInput", source)
        else:
            self._feeder = AsyncInput(cast("AsyncIterator[Any]", source))
        self._shared_config = config if isinstance(config, dict) else None
        self._configs = cast("Sequence[RunConfig]", config)
        self._deliver = deliver
        self._window = window
        self._deadline = deadline
        self._fail_fast = fail_fast
        self._parent = parent
        self._timed = timed
        self._unit = unit
        self._room = room
        self._expected = expected
        self._sized = expected is not None
        self._base = copy_context()

        self._admitted = 0
        self._delivered = 0
        self._seems_over = False
        self._drained = self._ended = False
        self._cut_short = False
        self._stopped = False
        self._failure: BaseException | None = None
        self._cut: BaseException | None = None
        self._workers = 0
        self._starting = 0
        self._leader: Waiter | None = None
        self._leading = False
        self._resting: list[Signal] = []
        self._finished = anyio.Event()
        self._group: anyio.abc.TaskGroup | None = None
        self._ends_at = math.inf
        self._too_late = False
        self._yielded_at = 0.0
        self._carried: dict[Item, _Carried] | None = None
        self._wound_down = False
        if stoppable:
            self._carried = {}
            self._scopes: dict[Host, CancelScope] = {}
            if run.live is None:
                run.live = set()

    @property
    def total(self) -> int | None:
        """How many inputs there are, of those that have a length; `None` where that is not known."""
        if self._ended and self._sized:
            return self._admitted
        return self._expected if self._expected is not None and self._admitted <= self._expected else None

    @property
    def pulled(self) -> int:
        """How many inputs were pulled."""
        return self._admitted + self.ahead

    @property
    def ahead(self) -> int:
        """How many values of an async source were pulled and not admitted."""
        return 0 if self._feeder is None else self._feeder.ahead

    @property
    def spending(self) -> Payer | None:
        """What keeps the run within its limits; `None` without any."""
        return self._run.spending

    @property
    def at_work(self) -> set[int]:
        """The indices of the items that have a leaf or a list under way; of a stoppable run."""
        busy = self._busy()
        return {item.index for item, carried in (self._carried or {}).items() if carried.strand in busy}

    def _busy(self) -> set[Strand]:
        return {strand.outermost for strand in list(self._run.live or ()) if strand.is_at_work}

    async def run(self) -> None:
        """Carry everything through and return when nothing of it is running any more.

        Raises:
            DeadlineExceededError: when the deadline passed first.
            SpendingLimitError: when it had spent what it may; what was under way is delivered.
            BaseException: the first error, as itself, if `fail_fast`; and always what the source
                raises and what is no `Exception`.
        """
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
        if self._feeder is None:
            return await self._run_workers()
        completed, failure = False, None
        try:
            # A group around the workers', which the run's own end cancels: that a source may close in peace.
            async with anyio.create_task_group() as group:
                group.start_soon(Unbegun, self._feed, self._feeder, name="batchrt inputs")
                try:
                    completed = await self._run_workers()
                except anyio.get_cancelled_exc_class():
                    self._feeder.expose()
                    raise
                except BaseException as error:  # noqa: BLE001  raised below: the group would wrap it
                    failure = error
                await self._feeder.end()
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
        """End the run, for nobody wants its outcomes any more: cancel what is under way."""
        self._stopped = True
        self._cancel()

    def wind_down(self) -> None:
        """Pull no more inputs, let items at work finish, and withdraw those that wait; on the loop's thread.

        An item waits (for a quota, a retry, a provider that is down, a slot) if none of its strands has a
        slot: its own, its branches', those nested in it, that of its list. One that comes to wait later is
        withdrawn then.
        """
        if self._wound_down or self._finished.is_set():
            return
        self._wound_down = True
        self._drain()
        self._withdraw()
        if self._group is not None:
            self._group.start_soon(Unbegun, self._keep_withdrawing, name="batchrt withdrawals")

    @property
    def is_wound_down(self) -> bool:
        """Whether it was told to end before the inputs did."""
        return self._wound_down

    def _withdraw(self) -> None:
        busy = self._busy()
        for carried in list((self._carried or {}).values()):
            if carried.strand not in busy and not carried.scope.cancel_called:
                carried.error = RunStoppedError(
                    "the run was stopped while the item waited to be sent",
                    started=carried.strand.item.was_sent,
                )
                carried.scope.cancel()

    async def _keep_withdrawing(self) -> None:
        while True:
            await anyio.sleep(WITHDRAWAL_SECONDS)
            self._withdraw()

    def _cancel(self) -> None:
        if self._group is not None:
            self._group.cancel_scope.cancel()
        if self._feeder is not None:
            self._feeder.cut()

    async def _feed(self, feeder: AsyncInput) -> None:
        try:
            await feeder.run()
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

    def delivered(self, count: int = 1) -> None:
        """Note that the consumer took `count` outcomes that `deliver` had kept for it."""
        self._delivered += count
        self._recruit()

    def may_admit(self) -> bool:
        """Whether another item may be admitted as things stand."""
        if self._drained or self._seems_over or self._failure is not None:
            return False
        if self._admitted - self._delivered >= self._window:
            return False
        run = self._run
        if run.spending is not None and run.spending.ended is not None:
            return False
        if run.held and run.held >= (run.slots.limit or UNCAPPED_HELD):
            return False
        return self._room is None or self._room()

    def _is_over(self) -> bool:
        """Whether no more is to be begun; what is under way is finished."""
        if self._deadline is not None and not self._drained and anyio.current_time() >= self._ends_at:
            self._end_in_time()
        if self._run.spending is not None and self._is_broke() and not (self._drained or self._seems_over):
            self._cut_short = True
            self._drain()
        return self._drained or self._failure is not None

    def _is_done_with(self, *, returned: bool) -> bool:
        """Whether a worker is to end where the source seems to be over; it may have `returned` from an item.

        One that comes back from an item looks whether it is, as a `for` would, or the last one does; what an
        item has appended to the inputs is not lost.
        """
        if (returned or self._workers == 1) and self._feeder is None:
            self._look_further()
        return self._is_over() or (self._seems_over and not returned and self._workers > 1)

    def _end_in_time(self) -> None:
        """End the run at its deadline, which the event loop cannot see while functions never await."""
        self._too_late = True
        self._drain()
        assert self._group is not None
        self._group.cancel_scope.cancel()

    def _is_broke(self) -> bool:
        spending = self._run.spending
        return spending is not None and spending.ended is not None

    def resume(self) -> None:
        """Note that one strand less is held up, as by a provider's quota."""
        if self._workers and not self._drained:
            self._recruit()

    def _recruit(self) -> None:
        """Get more workers going if there is work for them."""
        for _ in range(2):  # two, so that a thousand workers are up after ten rounds
            if self._leading or not self.may_admit():
                return
            if self._resting:
                self._resting.pop().set()
                return
            if not self._may_start():
                return
            assert self._group is not None
            self._starting += 1
            self._workers += 1
            self._group.start_soon(Unbegun, self._work, name="batchrt worker")

    def _may_start(self) -> bool:
        starting = self._starting
        if starting and starting > self._run.slots.free:
            return False
        if self._expected is not None and starting >= self._expected - self._admitted:
            return False
        return self._admitted - self._delivered + starting < self._window

    async def _work(self) -> None:
        self._starting -= 1
        if self._carried is None:
            await self._work_as(Host())
            return
        with CancelScope() as scope:
            own = Host()
            self._scopes[own] = scope
            try:
                await self._work_as(own)
            finally:
                del self._scopes[own]

    async def _work_as(self, own: Host) -> None:
        slots = self._run.slots
        holding = returned = False
        try:
            while not (self._is_done_with(returned=returned) if self._seems_over else self._is_over()):
                try:
                    ready = self._seems_over or self.may_admit()
                    if holding and (self._feeder is not None or not ready):
                        slots.give()
                        holding = False
                    if not ready:
                        await self._rest()
                    elif self._feeder is not None:
                        holding = await self._admit_from_feeder(self._feeder, own)
                        returned = True
                    elif holding or slots.try_take():
                        holding = False  # the slot goes with the item, and comes back with it
                        holding = await self._admit_from_iterator(own)
                        returned = True
                        if perf_counter() - self._yielded_at > MAX_HOG_SECONDS:
                            await anyio.lowlevel.checkpoint()
                            self._yielded_at = perf_counter()
                    elif self._leading:
                        await self._rest()
                    else:
                        holding = await self._lead()
                except anyio.get_cancelled_exc_class():
                    if not await own.goes_on():
                        raise
        finally:
            if holding:
                # The last slot of a nested run goes back to the leaf that lent it.
                slots.give(newcomers=self._parent is None or self._workers > 1)
            self._leave()

    def _leave(self) -> None:
        self._workers -= 1
        if self._workers == 0:
            self._finished.set()

    async def _rest(self) -> None:
        signal = Signal()
        self._resting.append(signal)
        try:
            await signal.wait()
        except BaseException:
            if signal in self._resting:
                self._resting.remove(signal)
            else:
                self._recruit()  # it was called to work
            raise

    async def _lead(self) -> bool:
        """Wait for a slot on behalf of all; `False` if there is nothing to wait for any more."""
        self._leading = True
        self._leader = Waiter()
        try:
            return await self._run.slots.take(self._leader, newcomer=self._parent is None)
        finally:
            self._leader = None
            self._leading = False

    def _admit_from_iterator(self, own: Host) -> Awaitable[bool]:
        assert self._iterator is not None
        try:
            value = next(self._iterator)
        except StopIteration:
            self._run_out()
        except BaseException as error:  # noqa: BLE001  raised by `run`
            self._fail(error, f"raised by the inputs after {self._admitted} of them")
        else:
            if self._shared_config is not None or self._has_config():
                return self._carry(value, own)
        return _slot_is_left()

    def _look_further(self) -> None:
        """See whether the source ends where its length says."""
        assert self._iterator is not None
        try:
            value = next(self._iterator)
        except StopIteration:
            self._run_out()
        except BaseException as error:  # noqa: BLE001  raised by `run`
            self._fail(error, f"raised by the inputs after {self._admitted} of them")
        else:
            self._iterator = chain((value,), self._iterator)
            self._go_on_pulling()

    def _look_at_nothing(self) -> None:
        # An empty list needs no worker to be found so.
        if self._feeder is None:
            self._look_further()
        else:
            self._expected = None

    def _go_on_pulling(self) -> None:
        # Who was wrong once is not asked again.
        self._seems_over, self._expected = False, None

    def _has_config(self) -> bool:
        if self._shared_config is not None or self._admitted < len(self._configs):
            return True
        count = len(self._configs)
        self._fail(ValueError(f"there must be one config for each input: {count} for more inputs"), None)
        return False

    async def _admit_from_feeder(self, feeder: AsyncInput, own: Host) -> bool:
        # Nobody holds a slot while waiting for the source: a retry that wakes up may need it.
        if self._leading:
            await self._rest()
            return False
        self._leading = True
        self._run.slots.offer()
        try:
            value = await feeder.peek()
            if self._seems_over:
                self._go_on_pulling()
            if not self._has_config():
                return False
            self._leader = Waiter()
            if not await self._run.slots.take(self._leader, newcomer=self._parent is None):
                return False
        except StopAsyncIteration:
            self._run_out()
            return False
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001  raised by `run`
            self._fail(error, f"raised by the inputs after {self._admitted} of them")
            return False
        finally:
            self._leader = None
            self._leading = False
        feeder.take()
        return await self._carry(value, own)

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
        if self._carried is not None:
            scope = self._scopes[own]
            self._carried[item] = _Carried(strand, scope)
            strand.scopes = (scope,)
        return strand

    # What waits with an item is what the garbage collector walks through, ten thousand times over: its
    # worker, this, what drives the step, and no coroutine more.
    async def _carry(self, value: Any, own: Host) -> bool:
        """Carry `value` through; return whether its slot is left."""
        strand, output = self._admit(own), None
        failure: BaseException | None = None
        if self._timed:
            strand.item.started = anyio.current_time()
        try:
            timeout = strand.config.get("timeout")
            if timeout is None:
                output = await self._call(strand, value)
            else:
                with CancelScope(deadline=anyio.current_time() + timeout) as scope:
                    strand.scopes = (*strand.scopes, scope)
                    output = await self._call(strand, value)
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
        carried = None if self._carried is None else self._carried.get(strand.item)
        assert self._group is not None
        if carried is not None and carried.error is not None and not self._group.cancel_scope.cancel_called:
            self._settle(strand.item, None, carried.error)

    def _call(self, strand: Strand, value: Any) -> Awaitable[Any]:
        context = strand_context(strand, self._base)
        call = self._step.call
        return drive(context, _at_once(call, value, strand) if self._step.inline else call(value, strand))

    def _settle(self, item: Item, output: Any, failure: BaseException | None) -> None:
        if self._carried is not None:
            del self._carried[item]
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
        """Whether it is one of the errors with which a run ends that has spent what it may.

        Then what is under way is finished, for it is paid.
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

    def _run_out(self) -> None:
        """Note that the source has ended."""
        self._ended = True
        self._drain()

    def _drain(self) -> None:
        """Note that there are no more inputs, or none that are wanted."""
        self._drained = True
        if self._feeder is not None:
            self._feeder.stop()
        elif self._seems_over:
            return  # all have been told
        self._dismiss()

    def _dismiss(self) -> None:
        """Tell those who wait for an input that there is none to be expected."""
        self._run.arrivals.slowed()
        if self._leader is not None:
            self._leader.withdraw()
        while self._resting:
            self._resting.pop().set()


class _Carried:
    """An item on its way through a run that can be stopped.

    Attributes:
        strand: carries it.
        scope: its worker's, which takes no other item once it is cancelled.
        error: why it was withdrawn.
    """

    __slots__ = ("error", "scope", "strand")

    def __init__(self, strand: Strand, scope: CancelScope) -> None:
        self.strand: Strand = strand
        self.scope: CancelScope = scope
        self.error: RunStoppedError | None = None


async def _slot_is_left() -> bool:
    return True


async def _at_once(call: StepCall, value: Any, strand: Strand) -> Any:
    return call(value, strand)


def _timed_out(seconds: float, unit: str) -> ItemTimeoutError:
    return ItemTimeoutError(f"the {unit} took longer than its timeout of {seconds:g} s", seconds=seconds)
