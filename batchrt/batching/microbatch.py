"""Items that meet at a step which takes lists.

Whoever comes to such a step waits in its queue, without a slot. A list is sent when the queue holds a
full one, when nobody is on the way to it any more, or when arrivals pause. It is taken from the queue
once it has its slot, so that it goes on filling while all slots are busy.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

import anyio
import anyio.lowlevel
from anyio import CancelScope

from batchrt.batching.bulk import Bulk
from batchrt.batching.list_call import ListCall, Part, carry, check_length, share_bills
from batchrt.config import RunConfig
from batchrt.errors import SpendingLimitError, StrayCancelledError
from batchrt.messages import Usage
from batchrt.runtime.context import drive
from batchrt.runtime.event_loop import OwnTask, Signal
from batchrt.runtime.run import Item, Run, Step, Strand, strand_context
from batchrt.runtime.spending import JointSpending, Payer, joint

__all__ = ["list_step"]

UNBOUNDED_LIST: Final = 1000
"""How many items to let meet at a step whose lists have no bound; the run's default window."""


def list_step(call: ListCall, identity: Hashable) -> Step:
    """Return a step that sends the items which come to it as lists.

    Steps of equal `identity` share their lists, wherever in a run they are: the runnable, and whatever
    was bound to it.
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

    return Step(step, lists=call.limits().size or UNBOUNDED_LIST, bulk=partial(Bulk, call))


async def _alone(call: ListCall, value: Any, strand: Strand) -> Any:
    """Send a list of one, where nobody else can come."""
    parts: list[Part] = []
    await carry(call, [value], strand, parts.append)
    (part,) = parts
    strand.item.add_book(part.book)
    return _output(call, part.each()[0])


def _output(call: ListCall, result: Any) -> Any:
    if isinstance(result, BaseException):
        # Several items may have the same error: each raises it with its own way down.
        raise BaseException.with_traceback(result, None)
    return result if call.finish is None else call.finish(result)


class _Entry:
    """A value in the queue or under way, and who waits for its result."""

    __slots__ = (
        "arrived",
        "bills",
        "config",
        "cost",
        "key",
        "list",
        "request_seconds",
        "result",
        "retries",
        "spending",
        "value",
        "waiting",
    )

    def __init__(self, value: Any, cost: float, key: Hashable | None, arrived: float, strand: Strand) -> None:
        self.value = value
        self.config: RunConfig = strand.config
        self.spending: Payer | None = strand.spending
        self.cost = cost
        self.key = key
        self.arrived = arrived
        self.waiting: list[Signal] = []
        self.list: _List | None = None
        self.result: Any = None
        self.bills: Mapping[str, Usage] | None = None
        self.request_seconds: float | None = None
        self.retries = 0


class _Queue:
    """Where the strands of a run meet for one step, under one set of slots."""

    def __init__(self, call: ListCall, strand: Strand) -> None:
        self.call = call
        self.on_entries = _on_entries(call)
        # One of its own: the first to come may be part of a nested run, which ends before this does.
        self.run = Run(strand.slots, parent=strand.run)
        self.run.spending = None  # each item's run pays for its own
        self.slots = strand.slots
        self.beyond = 0
        assert strand.run.arrivals.task_pool is not None
        self._crew = self.run.task_pool = strand.run.arrivals.task_pool
        self._base = strand.run.arrivals.base
        self._entries: deque[_Entry] = deque()
        self._size = 0
        self._cost = 0.0
        self._known: dict[tuple[Hashable, Payer | None], _Entry] = {}
        self._memory = _Memory(call.remembered)
        self._last_arrival = 0.0
        self._starved_at = self._hindered_at = -math.inf
        self._carriers: list[Strand] = []
        self._sending = False  # a list waits for its slot
        self._tended = False
        self._quiet = False
        self._wake: Signal | None = None

    async def meet(self, value: Any, strand: Strand) -> Any:
        """Wait for the output of `value`, which goes in a list with others'."""
        call = self.call
        key = None if call.key is None else call.key(value)
        if key is not None and (result := self._memory.get(key)) is not None:
            return _output(call, result)
        # Whoever does not pay together does not share either: a limit that one meets is not the other's.
        entry = self._known.get((key, strand.spending)) if key is not None else None
        signal = Signal()
        if entry is None:
            entry = self._add(value, key, strand)
        entry.waiting.append(signal)
        strand.visit(self)
        strand.give()
        strand.halt()
        try:
            await signal.wait()
        except BaseException:
            await self._leave(entry, signal)
            raise
        finally:
            strand.go()
        strand.item.retries += entry.retries
        strand.item.add_request(entry.request_seconds)
        if entry.bills is not None:
            # Billed once, whoever else waits for it.
            bills, entry.bills = entry.bills, None
            strand.item.add_bills(bills)
        return _output(call, entry.result)

    def stir(self) -> None:
        """Be told that nobody is on the way here."""
        if self._size and not self._quiet:
            self._quiet = True
            self._rouse()

    def idle(self) -> bool:
        """Whether nobody is here and nothing is kept for those who come."""
        return not (self._size or self._tended or self._sending or self._carriers or self._memory)

    def _add(self, value: Any, key: Hashable | None, strand: Strand) -> _Entry:
        cost = 0.0 if self.call.cost is None else self.call.cost(value)
        self._last_arrival = anyio.current_time()
        entry = _Entry(value, cost, key, self._last_arrival, strand)
        self._entries.append(entry)
        self._size += 1
        self._cost += cost
        if key is not None:
            self._known[key, entry.spending] = entry
        if self._full():
            self._send()
        if not self._tended:
            self._tended = True
            self._crew.dispatch(_Task(self._tend, self._untended))
        return entry

    async def _leave(self, entry: _Entry, signal: Signal) -> None:
        """Take a strand that was cancelled out; a list that nobody waits for any more ends with it."""
        if signal not in entry.waiting:
            return
        entry.waiting.remove(signal)
        if entry.waiting:
            return
        self._forget(entry)
        if entry.list is not None:
            await entry.list.leave()
            return
        self._size -= 1
        self._lose(entry.cost)
        self._rouse()

    def _forget(self, entry: _Entry) -> None:
        # Nobody is to join a list that is being cancelled.
        known = entry.key, entry.spending
        if entry.key is not None and self._known.get(known) is entry:
            del self._known[known]

    def settle(self, entry: _Entry, result: Any) -> None:
        """Hand a result, or an error, to whoever waits for it."""
        entry.result = result
        self._forget(entry)
        if entry.key is not None and isinstance(result, bytes):
            self._memory.put(entry.key, result)
        waiting, entry.waiting = entry.waiting, []
        for signal in waiting:
            signal.set()

    # When to send

    def _full(self) -> bool:
        size, cost = self.call.limits()
        return (size is not None and self._size >= size) or (cost is not None and self._cost >= cost)

    def _due_at(self) -> float:
        while self._entries and not self._entries[0].waiting:
            self._entries.popleft()
        if not self._entries:
            return math.inf
        if self.call.linger > 0:
            self._look_for_hindrances()
        first = max(self._entries[0].arrived, self._starved_at)
        last = max(self._last_arrival, self._starved_at, self._hindered_at)
        return min(last + self.call.linger, first + self.call.max_linger)

    def _look_for_hindrances(self) -> None:
        """Note when it is this step's own doing that nobody comes: such a pause is none of the arrivals'."""
        limit = self.slots.limit
        if limit is not None and sum(each.has_slot for each in self._carriers) >= limit:
            self._starved_at = anyio.current_time()
        elif self.beyond and self.slots.wanted():
            # Those who have been here go before those who are to come.
            self._hindered_at = anyio.current_time()

    async def _tend(self) -> None:
        """See that what is in the queue is sent in time."""
        self._tended = True
        try:
            while self._size:
                if not self._sending and await self._due():
                    self._send()
                elif self._size:
                    await self._doze()
        finally:
            self._untended()

    def _untended(self) -> None:
        self._tended = False

    async def _due(self) -> bool:
        if self._full():
            return True
        if anyio.current_time() >= self._due_at():
            # A pause of the event loop's own is none of the arrivals'.
            await anyio.lowlevel.checkpoint()
            return anyio.current_time() >= self._due_at()
        if not self._quiet:
            return False
        # Whoever was just woken or started has not come a step further yet.
        await anyio.lowlevel.checkpoint()
        self._quiet = False
        return not self.run.arrivals.awaited(self)

    async def _doze(self) -> None:
        self._wake = Signal()
        with CancelScope(deadline=math.inf if self._sending else self._due_at()):
            await self._wake.wait()
        self._wake = None

    def _rouse(self) -> None:
        if self._wake is not None:
            self._wake.set()

    # Sending

    def _send(self) -> None:
        if not self._sending:
            self._sending = True
            self._crew.dispatch(_Task(self._send_list, self._unsent))

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
        self._rouse()
        if self._full():
            self._send()
        if entries:
            strand.config = entries[0].config
            await _List(self, entries).carry(strand, self._base)

    def _take(self) -> list[_Entry]:
        """Take a list out of the queue."""
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
        self._lose(total)
        return taken

    def _lose(self, cost: float) -> None:
        self._cost -= cost
        if not self._size or not math.isfinite(self._cost):
            self._cost = sum(entry.cost for entry in self._entries if entry.waiting)


class _List:
    """A list under way."""

    def __init__(self, queue: _Queue, entries: list[_Entry]) -> None:
        self._queue = queue
        self._entries = entries
        self._wanted = len(entries)
        self._scope = CancelScope()
        self._ended = anyio.Event()
        for entry in entries:
            entry.list = self

    async def carry(self, strand: Strand, base: Context) -> None:
        """Carry it through and settle its entries."""
        entries, queue = self._entries, self._queue
        own = OwnTask()
        strand.scopes = (self._scope,)
        strand.spending = entries[0].spending
        call: ListCall = queue.call
        values: Sequence[Any] = [entry.value for entry in entries]
        if any(entry.spending is not strand.spending for entry in entries):
            call, values = queue.on_entries, entries
        try:
            with self._scope:
                sent = carry(call, values, strand, self._give, own)
                await drive(strand_context(strand, base), sent)
        except anyio.get_cancelled_exc_class() as error:
            if own.is_cancelled():
                raise
            self._settle_all(StrayCancelledError.of(error))
        except BaseException as error:  # noqa: BLE001  raised by the strands that wait
            self._settle_all(error)
        finally:
            self._ended.set()

    def _settle_all(self, error: BaseException) -> None:
        for entry in self._entries:
            self._queue.settle(entry, error)

    async def leave(self) -> None:
        """Take one entry out; the last one ends the call and waits for its end."""
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


def _on_entries(call: ListCall) -> ListCall:
    """Return `call` for lists of entries that several runs pay for, each for its own."""

    async def on_entries(entries: Sequence[_Entry], strand: Strand) -> Sequence[Any]:
        results: dict[_Entry, Any] = {}
        while left := [entry for entry in entries if entry not in results]:
            values = [entry.value for entry in left]
            payer = joint(values, [entry.spending for entry in left], [entry.cost for entry in left])
            strand.spending = payer
            await strand.take()
            try:
                sent = await call.call(values, strand)
            except Exception as error:
                refused = _refused(payer, left, error)
                if not refused:
                    raise
                results.update(refused)
            else:
                results.update(zip(left, check_length(call, left, sent), strict=True))
        return [results[entry] for entry in entries]

    return replace(call, call=on_entries, cost=None if call.cost is None else lambda entry: entry.cost)


def _refused(payer: Payer | None, entries: Sequence[_Entry], failure: Exception) -> dict[_Entry, Exception]:
    """Return the errors of those entries whose runs may not spend more; the others are none of that."""
    if not isinstance(payer, JointSpending):
        return {}
    found = {entry: payer.refuses(entry.spending) for entry in entries}
    if payer.refusal is None and issubclass(type(failure), SpendingLimitError):
        # One had ended before, and what is nested in the list call did not even try.
        found = {entry: None if entry.spending is None else entry.spending.ended for entry in entries}
    return {entry: error for entry, error in found.items() if error is not None}


class _Memory:
    """Keep the results of values that may come again, the latest up to a number of bytes."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._results: OrderedDict[Hashable, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._results)

    def get(self, key: Hashable) -> bytes | None:
        result = self._results.get(key)
        if result is not None:
            self._results.move_to_end(key)
        return result

    def put(self, key: Hashable, result: bytes) -> None:
        if key in self._results or len(result) > self._most:
            return
        self._results[key] = result
        self._left -= len(result)
        while self._left < 0:
            self._left += len(self._results.popitem(last=False)[1])


class _Task:
    """A function for the task_pool."""

    __slots__ = ("_abandoned", "_function")

    def __init__(self, function: Callable[[], Awaitable[None]], abandoned: Callable[[], None]) -> None:
        self._function = function
        self._abandoned = abandoned

    async def run(self) -> None:
        own = OwnTask()
        while True:
            try:
                await self._function()
            except anyio.get_cancelled_exc_class():
                if own.is_cancelled():
                    raise
                await own.put_right()  # and again: others wait for what it does
            else:
                return

    def abandon(self, error: BaseException) -> None:  # noqa: ARG002  a task_pool's word
        self._abandoned()
