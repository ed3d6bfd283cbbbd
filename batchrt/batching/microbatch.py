"""Micro-batching: items of a run that arrive at a step which takes lists are queued and sent as lists.

An arriving strand waits in the step's queue, without a slot. A list is due when

1. the queue holds a full one;
2. no other item can arrive: every moving strand of the run has been here before (`_Queue.beyond`), and the
   scheduler admits no more. This is known, not guessed: `Arrivals` counts the strands that move, those that
   wait in no queue, for no branches and for no nested work. So the last list of a run, and the only one of a
   single call, goes at once;
3. arrivals pause: `linger` seconds after the last arrival, `max_linger` after the first. This bounds the wait
   where 2 cannot be known: functions that loop back, nested work on another event loop.

Invariants:

- At most one list at a time waits for a slot (`_sending`), and its values are taken from the queue only once
  it has the slot. So a list goes on filling while all slots are busy.
- A queue that is not empty has a task that tends it, or a list on its way to a slot, which takes from it.
- While this step's own lists hold all slots, or strands that have been here wait for a slot, no item can
  arrive, and the pause is not one of the arrivals: `linger` counts from its end.
- An entry has its result or error exactly once; one that no strand waits for any more is skipped, and a list
  without any such strand is cancelled.

Nagle's algorithm (RFC 896) and Kafka's `linger.ms` with `batch.size` are the same trade; 2 is what a bounded
run can know beyond them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import anyio
import anyio.lowlevel
from anyio import CancelScope

from batchrt.batching.bulk import Bulk
from batchrt.batching.joint_payment import paid_jointly
from batchrt.batching.list_call import ListCall, Part, carry, share_bills
from batchrt.batching.result_cache import ResultCache
from batchrt.config import RunConfig
from batchrt.errors import StrayCancelledError
from batchrt.messages import Usage
from batchrt.runtime.context import drive
from batchrt.runtime.event_loop import OwnTask, Signal
from batchrt.runtime.item import Item
from batchrt.runtime.observers import SentList, sending_list
from batchrt.runtime.run import Run
from batchrt.runtime.spending import Payer
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand, strand_context
from batchrt.runtime.task_pool import PersistentTask

__all__ = ["list_step"]

_UNBOUNDED_QUEUE: Final = 1000
"""Items to queue for a list where nothing bounds it; the run's default window."""


def list_step(call: ListCall, identity: Hashable) -> Step:
    """Return a step that sends the items which arrive at it as lists.

    Steps of equal `identity` share their lists, wherever in a run they are: it is the runnable, and the
    arguments bound to it.
    """

    async def step(value: Any, strand: Strand) -> Any:
        value = call.queued(value, strand.config)
        arrivals = strand.run.arrivals
        if arrivals.task_pool is None:
            return await _alone(call, value, strand)
        key = (strand.slots, identity)
        queue = arrivals.places.get(key)
        if queue is None:
            queue = _Queue(call, strand)
            arrivals.open(key, queue)
        return await cast("_Queue", queue).meet(value, strand)

    return Step(step, lists=call.limits().size or _UNBOUNDED_QUEUE, bulk=partial(Bulk, call))


async def _alone(call: ListCall, value: Any, strand: Strand) -> Any:
    """Send a list of one, where no other item can arrive."""
    parts: list[Part] = []
    await carry(call, [value], strand, parts.append)
    (part,) = parts
    strand.item.add_book(part.book)
    return _output(call, part.each()[0])


def _output(call: ListCall, result: Any) -> Any:
    if isinstance(result, BaseException):
        # Several items may have the same error: each raises it with a traceback of its own.
        raise BaseException.with_traceback(result, None)
    return result if call.finish is None else call.finish(result)


@dataclass(slots=True, eq=False)
class _Entry:
    """A value in the queue or in flight, and the signals of the strands that wait for its result."""

    value: Any
    cost: float
    key: Hashable | None
    arrived: float
    config: RunConfig
    spending: Payer | None
    waiting: list[Signal]
    sent_in: _List | None = None
    result: Any = None
    bills: Mapping[str, Usage] | None = None
    request_seconds: float | None = None
    retries: int = 0
    origins: tuple[object, ...] = ()

    @property
    def is_at_work(self) -> bool:
        """Whether its list has a slot."""
        return self.sent_in is not None and self.sent_in.is_at_work


class _Queue:
    """Queue the strands of a run at one step, under one set of slots."""

    def __init__(self, call: ListCall, strand: Strand) -> None:
        self.call = call
        self.paid_jointly = paid_jointly(call)
        # A run of its own: the first arrival may be part of a nested run, which ends before this does.
        self.run = Run(strand.slots, parent=strand.run)
        self.run.spending = None  # each item's run pays for its own items
        self.slots = strand.slots
        self.beyond = 0
        assert strand.run.arrivals.task_pool is not None
        self._task_pool = self.run.task_pool = strand.run.arrivals.task_pool
        self._base = strand.run.arrivals.base
        self._entries: deque[_Entry] = deque()
        self._size = 0
        self._cost = 0.0
        self._known: dict[tuple[Hashable, Payer | None], _Entry] = {}
        self._cache = ResultCache(call.remembered)
        self._last_arrival = 0.0
        self._starved_at = self._hindered_at = -math.inf
        self._carriers: list[Strand] = []
        self._sending = False  # a list waits for its slot
        self._tended = False
        self._quiet = False
        self._wake: Signal | None = None

    async def meet(self, value: Any, strand: Strand) -> Any:
        """Return the output of `value`, which is sent in a list with other strands' values."""
        call = self.call
        key = None if call.key is None else call.key(value)
        if key is not None and (result := self._cache.get(key)) is not None:
            return _output(call, result)
        # Only strands with the same budgets share an entry: a limit that one reaches is not the other's.
        entry = self._known.get((key, strand.spending)) if key is not None else None
        signal = Signal()
        if entry is None:
            entry = self._add(value, key, strand)
        entry.waiting.append(signal)
        if strand.run.observer is not None:
            entry.origins = (*entry.origins, strand.run.observer.origin())
        strand.visit(self)
        strand.give()
        strand.halt()
        strand.list = entry
        try:
            await signal.wait()
        except BaseException:
            await self._leave(entry, signal)
            raise
        finally:
            strand.list = None
            strand.go()
        strand.item.retries += entry.retries
        strand.item.add_request(entry.request_seconds)
        if entry.bills is not None:
            # Billed once, however many strands wait for it.
            bills, entry.bills = entry.bills, None
            strand.item.add_bills(bills)
        return _output(call, entry.result)

    def stir(self) -> None:
        """Handle that no strand may be on its way here any more; see `Arrivals`."""
        if self._size and not self._quiet:
            self._quiet = True
            self._wake_up()

    def idle(self) -> bool:
        """Whether the queue can be dropped: nothing is queued, in flight or cached."""
        return not (self._size or self._tended or self._sending or self._carriers or self._cache)

    def _add(self, value: Any, key: Hashable | None, strand: Strand) -> _Entry:
        cost = 0.0 if self.call.cost is None else self.call.cost(value)
        self._last_arrival = anyio.current_time()
        entry = _Entry(value, cost, key, self._last_arrival, strand.config, strand.spending, [])
        self._entries.append(entry)
        self._size += 1
        self._cost += cost
        if key is not None:
            self._known[key, entry.spending] = entry
        if self._full():
            self._send()
        if not self._tended:
            self._tended = True
            self._task_pool.dispatch(PersistentTask(self._tend, self._untended))
        return entry

    async def _leave(self, entry: _Entry, signal: Signal) -> None:
        """Remove a cancelled strand; cancel the list if no other strand waits for it."""
        if signal not in entry.waiting:
            return
        entry.waiting.remove(signal)
        if entry.waiting:
            return
        self._forget(entry)
        if entry.sent_in is not None:
            await entry.sent_in.leave()
            return
        self._size -= 1
        self._subtract(entry.cost)
        self._wake_up()

    def _forget(self, entry: _Entry) -> None:
        # No strand must join a list that is being cancelled.
        known = entry.key, entry.spending
        if entry.key is not None and self._known.get(known) is entry:
            del self._known[known]

    def settle(self, entry: _Entry, result: Any) -> None:
        """Hand a result, or an error, to the waiting strands."""
        entry.result = result
        self._forget(entry)
        if entry.key is not None and isinstance(result, bytes):
            self._cache.put(entry.key, result)
        waiting, entry.waiting = entry.waiting, []
        for signal in waiting:
            signal.set()

    def _full(self) -> bool:
        size, cost = self.call.limits()
        return (size is not None and self._size >= size) or (cost is not None and self._cost >= cost)

    def _due_at(self) -> float:
        while self._entries and not self._entries[0].waiting:
            self._entries.popleft()
        if not self._entries:
            return math.inf
        if self.call.linger > 0:
            self._observe_starvation()
        first = max(self._entries[0].arrived, self._starved_at)
        last = max(self._last_arrival, self._starved_at, self._hindered_at)
        return min(last + self.call.linger, first + self.call.max_linger)

    def _observe_starvation(self) -> None:
        """Record when this step itself keeps items from arriving: such a pause is not one of the arrivals."""
        limit = self.slots.limit
        if limit is not None and sum(each.has_slot for each in self._carriers) >= limit:
            self._starved_at = anyio.current_time()
        elif self.beyond and self.slots.wanted():
            # Strands that have been here get slots before new items.
            self._hindered_at = anyio.current_time()

    async def _tend(self) -> None:
        """Send lists when they are due, until the queue is empty."""
        self._tended = True
        try:
            while self._size:
                if not self._sending and await self._due():
                    self._send()
                elif self._size:
                    await self._wait_until_due()
        finally:
            self._untended()

    def _untended(self) -> None:
        self._tended = False

    async def _due(self) -> bool:
        if self._full():
            return True
        if anyio.current_time() >= self._due_at():
            # The event loop itself may have stood still: let items arrive first.
            await anyio.lowlevel.checkpoint()
            return anyio.current_time() >= self._due_at()
        if not self._quiet:
            return False
        # Tasks that were just woken or started have not run yet.
        await anyio.lowlevel.checkpoint()
        self._quiet = False
        return not self.run.arrivals.awaited(self)

    async def _wait_until_due(self) -> None:
        self._wake = Signal()
        with CancelScope(deadline=math.inf if self._sending else self._due_at()):
            await self._wake.wait()
        self._wake = None

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()

    def _send(self) -> None:
        if not self._sending:
            self._sending = True
            self._task_pool.dispatch(PersistentTask(self._send_list, self._unsent))

    def _unsent(self) -> None:
        self._sending = False

    async def _send_list(self) -> None:
        self._sending = True
        strand = Strand(self.run, Item(-1), {}, self.slots)
        strand.visit(self)
        try:
            try:
                await strand.take()
            finally:
                self._sending = False
            self._carriers.append(strand)
            try:
                await self._carry_list(strand)
            finally:
                self._carriers.remove(strand)
        finally:
            strand.close()

    async def _carry_list(self, strand: Strand) -> None:
        entries = self._take()
        self._wake_up()
        if self._full():
            self._send()
        if entries:
            strand.config = entries[0].config
            await _List(self, entries).carry(strand, self._base)

    def _take(self) -> list[_Entry]:
        """Take a list from the queue."""
        size, most = self.call.limits()
        taken: list[_Entry] = []
        total = 0.0
        while self._entries and (size is None or len(taken) < size):
            entry = self._entries[0]
            if entry.waiting and taken and most is not None and total + entry.cost > most:
                break
            self._entries.popleft()
            if entry.waiting:
                taken.append(entry)
                total += entry.cost
        self._size -= len(taken)
        self._subtract(total)
        return taken

    def _subtract(self, cost: float) -> None:
        self._cost -= cost
        if not self._size or not math.isfinite(self._cost):
            self._cost = sum(entry.cost for entry in self._entries if entry.waiting)


class _List:
    """Carry one list and settle its entries."""

    def __init__(self, queue: _Queue, entries: list[_Entry]) -> None:
        self._queue = queue
        self._entries = entries
        self._wanted = len(entries)
        self._scope = CancelScope()
        self._ended = anyio.Event()
        self._strand: Strand | None = None
        for entry in entries:
            entry.sent_in = self

    @property
    def is_at_work(self) -> bool:
        """Whether it has a slot."""
        return self._strand is not None and self._strand.has_slot

    async def carry(self, strand: Strand, base: Context) -> None:
        """Send the list; return when all of its entries are settled."""
        entries, queue = self._entries, self._queue
        own = OwnTask()
        self._strand = strand
        strand.scopes = (self._scope,)
        strand.spending = entries[0].spending
        call: ListCall = queue.call
        values: Sequence[Any] = [entry.value for entry in entries]
        if any(entry.spending is not strand.spending for entry in entries):
            call, values = queue.paid_jointly, entries
        context = strand_context(strand, base)
        if strand.run.observer is not None:
            context.run(sending_list.set, SentList(len(entries), [entry.origins for entry in entries]))
        try:
            with self._scope:
                sent = carry(call, values, strand, self._give, own)
                await drive(context, sent)
        except anyio.get_cancelled_exc_class() as error:
            if own.is_cancelled():
                raise
            self._settle_all(StrayCancelledError.of(error))
        except BaseException as error:  # noqa: BLE001  raised in the waiting strands
            self._settle_all(error)
        finally:
            self._ended.set()

    def _settle_all(self, error: BaseException) -> None:
        for entry in self._entries:
            self._queue.settle(entry, error)

    async def leave(self) -> None:
        """Remove one entry; the last one cancels the call and waits for its end."""
        self._wanted -= 1
        if not self._wanted:
            self._scope.cancel()
            with CancelScope(shield=True):
                await self._ended.wait()

    def _give(self, part: Part) -> None:
        entries = self._entries[part.start : part.stop]
        if part.book.bills is not None:
            shares = share_bills(part.book, [entry.cost for entry in entries])
            for entry, bills in zip(entries, shares, strict=True):
                entry.bills = bills
        for entry, result in zip(entries, part.each(), strict=True):
            entry.retries += part.book.retries
            entry.request_seconds = part.book.request_seconds
            self._wanted -= bool(entry.waiting)
            self._queue.settle(entry, result)
