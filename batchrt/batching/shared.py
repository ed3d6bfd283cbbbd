"""Shared lists: the lists that concurrent runs send to the same step are joined, for a service's requests.

Each run packs its own list and takes a slot of its own for it. Here the lists of runs that are in flight at
the same time on one event loop are joined before they are sent. So the cap of every run holds, and nothing
here waits for a slot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import Context
from dataclasses import replace
from typing import Any

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from batchrt.batching.list_call import ListCall, check_length, share_bills
from batchrt.errors import StrayCancelledError
from batchrt.runtime.context import drive
from batchrt.runtime.event_loop import Host, LoopHandle, Signal
from batchrt.runtime.item import Item
from batchrt.runtime.joint_spending import JointSpending
from batchrt.runtime.observers import SentList, sending_list
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.spending import Payer
from batchrt.runtime.strand import Strand, strand_context
from batchrt.runtime.task_pool import Unbegun

__all__ = ["shared"]


def shared(call: ListCall) -> ListCall:
    """Return `call` such that lists of concurrent runs are joined; all of the runs must use the result."""
    queues = _SharedQueues(call)
    return replace(call, call=queues.send)


class _SharedQueues:
    """Keep one queue for each event loop that has lists in flight."""

    def __init__(self, call: ListCall) -> None:
        self._call = call
        self._queues: dict[object, _SharedQueue] = {}

    async def send(self, values: list[Any], strand: Strand) -> Sequence[Any]:
        """Send `values` as a `ListCall.call` does."""
        loop = LoopHandle.current()
        member = _Member(values, self._costs_of(values), strand)
        # Only this loop's thread uses its queue, so that no lock is needed.
        queue = self._queues.get(loop.token)
        if queue is None:
            queue = self._queues[loop.token] = _SharedQueue(self._call)
        queue.users += 1
        queue.open(loop)  # with a user already: an eager task starts at once
        try:
            queue.put(member)
            results = await member.wait()
        finally:
            queue.users -= 1
            if not queue.users:
                del self._queues[loop.token]
                await queue.end()
        return await self._call.call(values, strand) if results is None else results

    def _costs_of(self, values: list[Any]) -> list[float]:
        cost_of = self._call.cost
        return [0.0] * len(values) if cost_of is None else list(map(cost_of, values))


class _Member:
    """The list of one run, which waits to be sent or for its results."""

    def __init__(self, values: list[Any], costs: list[float], strand: Strand) -> None:
        self.values = values
        self.costs = costs
        self.cost = sum(costs)
        self.strand = strand
        self.sent: _JointList | None = None
        self.wanted = True
        observer = strand.run.observer
        self.origins = () if observer is None else _origins(observer.origin(), len(values))
        self._signal = Signal()
        self._results: Sequence[Any] | None = ()
        self._error: BaseException | None = None

    async def wait(self) -> Sequence[Any] | None:
        """Return the results; `None` if the run has to send the list itself."""
        try:
            await self._signal.wait()
        except BaseException:
            self.wanted = False
            if self.sent is not None:
                await self.sent.leave()
            raise
        if self._error is not None:
            raise self._error
        return self._results

    def leave_alone(self) -> None:
        """Have the run send the list itself."""
        self._results = None
        self._signal.set()

    def settle(self, results: Sequence[Any], error: BaseException | None) -> None:
        self._results, self._error = results, error
        self._signal.set()


def _origins(run: object, size: int) -> Sequence[Sequence[object]]:
    """Return the origins of each input of a run's list: its item's, and the run's own."""
    listed = sending_list.get()
    if listed is None or not listed.origins:
        return [(run,)] * size
    return [(run, *origins) for origins in listed.origins]


class _JointList:
    """Lists that are sent together."""

    def __init__(self, members: list[_Member]) -> None:
        self.members = members
        self.scope = CancelScope()
        self.begun = False
        self.ended = anyio.Event()
        for member in members:
            member.sent = self

    async def leave(self) -> None:
        """Cancel the call if no run waits for it any more."""
        if self.wanted():
            return
        self.scope.cancel()
        if self.begun:
            with CancelScope(shield=True):
                await self.ended.wait()

    def wanted(self) -> bool:
        """Whether a run waits for it."""
        return any(member.wanted for member in self.members)


class _SharedQueue:
    """Join the lists of one event loop; exists while a run has a list there."""

    def __init__(self, call: ListCall) -> None:
        self._call = call
        self.users = 0
        self._members: list[_Member] = []
        self._first = self._last = 0.0
        self._changed = Signal()
        self._ended = anyio.Event()
        self._task: object = None

    def open(self, loop: LoopHandle) -> None:
        """Start the task that sends lists, unless it is running."""
        if self._task is None:
            self._task = self  # until there is one: an eager task starts at once
            # An empty context: the task works for several requests.
            self._task = loop.start(self._serve, Context(), "batchrt shared lists", self._ended.set)

    async def end(self) -> None:
        """End the task, when no run needs it any more, and wait for its end."""
        self._changed.set()
        with CancelScope(shield=True):
            await self._ended.wait()

    def put(self, member: _Member) -> None:
        self._last = anyio.current_time()
        if not self._members:
            self._first = self._last
        self._members.append(member)
        self._changed.set()

    async def _serve(self) -> None:
        async with anyio.create_task_group() as group:
            while self.users:
                self._members = [member for member in self._members if member.wanted]
                if self._full() or anyio.current_time() >= self._due_at():
                    self._send(group)
                else:
                    self._changed = Signal()
                    with CancelScope(deadline=self._due_at()):
                        await self._changed.wait()

    def _due_at(self) -> float:
        if not self._members:
            return math.inf
        return min(self._last + self._call.linger, self._first + self._call.max_linger)

    def _full(self) -> bool:
        size, cost = self._call.limits()
        enough = size is not None and sum(len(member.values) for member in self._members) >= size
        return enough or (cost is not None and sum(member.cost for member in self._members) >= cost)

    def _send(self, group: TaskGroup) -> None:
        size, most = self._call.limits()
        taken = 0
        count, cost = 0, 0.0
        for member in self._members:
            count, cost = count + len(member.values), cost + member.cost
            if taken and ((size is not None and count > size) or (most is not None and cost > most)):
                break
            taken += 1
        members, self._members = self._members[:taken], self._members[taken:]
        if members:
            group.start_soon(Unbegun, self._carry, _JointList(members), group)

    async def _carry(self, sent: _JointList, group: TaskGroup) -> None:
        if not sent.wanted():
            return
        sent.begun = True
        try:
            with sent.scope:
                if not await self._try(sent.members):
                    # One of them is guilty: send each by itself.
                    for member in sent.members:
                        if member.wanted:
                            group.start_soon(Unbegun, self._carry, _JointList([member]), group)
        finally:
            sent.ended.set()

    async def _try(self, members: list[_Member]) -> bool:
        """Send `members` and settle them; return `False` if several failed, to be sent one by one."""
        # Each run has given one slot for this, and nested work gets no more.
        capped = any(member.strand.slots.limit is not None for member in members)
        adaptive = any(member.strand.slots.adaptive for member in members)
        slots = Slots(1 if capped else None, adaptive=adaptive)
        run = Run(slots)
        run.blockades = tuple({each for member in members for each in member.strand.run.blockades})
        run.observer = next((member.strand.run.observer for member in members if member.origins), None)
        strand = Strand(run, Item(-1), members[0].strand.config, slots, has_slot=slots.try_take())
        values = [value for member in members for value in member.values]
        payer = strand.spending = _payer_of(members, values)
        results: Sequence[Any] = ()
        failure: BaseException | None = None
        own = Host()
        try:
            results = await drive(_context_of(strand, members), self._answer(values, strand))
        except anyio.get_cancelled_exc_class() as error:
            if not await own.goes_on():  # or the lists of other runs would end with this task
                raise
            failure = StrayCancelledError.of(error)
        except BaseException as error:  # noqa: BLE001  raised in the runs
            failure = error
        finally:
            strand.close()
        if own.is_disturbed():
            left = await own.error_left()
            failure = left if failure is None else failure
        _account(members, strand.item)
        # An interrupt says nothing about the lists and is not followed by another attempt.
        if isinstance(failure, Exception):
            if payer is not None and payer.is_to_blame(failure):
                for member in members:
                    member.leave_alone()
                return True
            if len(members) > 1:
                return False
        start = 0
        for member in members:
            stop = start + len(member.values)
            member.settle(results[start:stop], failure)
            start = stop
        return True

    async def _answer(self, values: list[Any], strand: Strand) -> Sequence[Any]:
        return check_length(self._call, values, await self._call.call(values, strand))


def _context_of(strand: Strand, members: Sequence[_Member]) -> Context:
    """Return the context for a shared list, which is no run's; an observer finds the list described in it."""
    context = strand_context(strand, Context())
    if strand.run.observer is not None:
        origins = [each for member in members for each in member.origins or [()] * len(member.values)]
        context.run(sending_list.set, SentList(len(origins), origins))
    return context


def _payer_of(members: Sequence[_Member], values: Sequence[Any]) -> JointSpending | None:
    """Return the payer of a shared list, each run paying for its items; `None` if no run has a limit."""
    if all(member.strand.spending is None for member in members):
        return None
    payers: list[Payer | None] = []
    costs: list[float] = []
    total = sum(member.cost for member in members)
    for member in members:
        payer = member.strand.spending
        if isinstance(payer, JointSpending) and payer.items is member.values:
            payers += payer.payers
        else:
            payers += [payer] * len(member.values)
        costs += member.costs if total > 0 else [1.0] * len(member.values)
    # The runs' slots are not given up here, so the payer must not wait for their requests in flight: these
    # may need such a slot.
    return JointSpending(values, payers, costs, waits=False)


def _account(members: Sequence[_Member], book: Item) -> None:
    """Add the retries and seconds of a list to the items of its members, and share its bill among them."""
    shares = share_bills(book, [member.cost or len(member.values) for member in members])
    for member, bills in zip(members, shares, strict=True):
        item = member.strand.item
        item.retries += book.retries
        item.add_bills(bills)
        item.add_request(book.request_seconds)
