"""Lists that runs share: what concurrent requests of a service send to the same step goes together.

Each run packs its own list, and takes a slot of its own for it, as ever. Here the lists of runs that are
under way at the same time on one event loop are put together before they are sent.
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
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.spending import Payer
from batchrt.runtime.strand import Strand, strand_context
from batchrt.runtime.task_pool import Unbegun

__all__ = ["shared"]


def shared(call: ListCall) -> ListCall:
    """Return `call` such that lists of concurrent runs are sent together; keep it for all of them."""
    desks = _Desks(call)
    return replace(call, call=desks.send)


class _Desks:
    """Keep one desk for each event loop that has lists under way."""

    def __init__(self, call: ListCall) -> None:
        self._call = call
        self._desks: dict[object, _Desk] = {}

    async def send(self, values: list[Any], strand: Strand) -> Sequence[Any]:
        """Be a `ListCall.call`."""
        loop = LoopHandle.current()
        part = _Part(values, self._costs_of(values), strand)
        # No other thread has to do with this loop's desk, and no lock is needed for it.
        desk = self._desks.get(loop.token)
        if desk is None:
            desk = self._desks[loop.token] = _Desk(self._call)
        desk.users += 1
        desk.open(loop)  # when it has a user: an eager task begins at once
        try:
            desk.put(part)
            results = await part.wait()
        finally:
            desk.users -= 1
            if not desk.users:
                del self._desks[loop.token]
                await desk.end()
        return await self._call.call(values, strand) if results is None else results

    def _costs_of(self, values: list[Any]) -> list[float]:
        cost_of = self._call.cost
        return [0.0] * len(values) if cost_of is None else list(map(cost_of, values))


class _Part:
    """One run's list."""

    def __init__(self, values: list[Any], costs: list[float], strand: Strand) -> None:
        self.values = values
        self.costs = costs
        self.cost = sum(costs)
        self.strand = strand
        self.sent: _Sent | None = None
        self.wanted = True
        self._signal = Signal()
        self._results: Sequence[Any] | None = ()
        self._error: BaseException | None = None

    async def wait(self) -> Sequence[Any] | None:
        """Return the results; `None` if its run is to send it by itself."""
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
        """Have its run send it by itself."""
        self._results = None
        self._signal.set()

    def settle(self, results: Sequence[Any], error: BaseException | None) -> None:
        self._results, self._error = results, error
        self._signal.set()


class _Sent:
    """Lists that were sent together."""

    def __init__(self, parts: list[_Part]) -> None:
        self.parts = parts
        self.scope = CancelScope()
        self.begun = False
        self.ended = anyio.Event()
        for part in parts:
            part.sent = self

    async def leave(self) -> None:
        """End the call if nobody waits for it any more."""
        if self.wanted():
            return
        self.scope.cancel()
        if self.begun:
            with CancelScope(shield=True):
                await self.ended.wait()

    def wanted(self) -> bool:
        """Whether anybody waits for it."""
        return any(part.wanted for part in self.parts)


class _Desk:
    """Put the lists of one loop together; there while anybody has one there."""

    def __init__(self, call: ListCall) -> None:
        self._call = call
        self.users = 0
        self._parts: list[_Part] = []
        self._first = self._last = 0.0
        self._changed = Signal()
        self._ended = anyio.Event()
        self._task: object = None

    def open(self, loop: LoopHandle) -> None:
        """Start its task, unless it has one."""
        if self._task is None:
            self._task = self  # until there is one: an eager task begins at once
            # Nobody's context: what it does is done for several requests.
            self._task = loop.start(self._serve, Context(), "batchrt shared lists", self._ended.set)

    async def end(self) -> None:
        """Return when its task has ended, of which nobody wants anything any more."""
        self._changed.set()
        with CancelScope(shield=True):
            await self._ended.wait()

    def put(self, part: _Part) -> None:
        self._last = anyio.current_time()
        if not self._parts:
            self._first = self._last
        self._parts.append(part)
        self._changed.set()

    async def _serve(self) -> None:
        async with anyio.create_task_group() as group:
            while self.users:
                self._parts = [part for part in self._parts if part.wanted]
                if self._full() or anyio.current_time() >= self._due_at():
                    self._send(group)
                else:
                    self._changed = Signal()
                    with CancelScope(deadline=self._due_at()):
                        await self._changed.wait()

    def _due_at(self) -> float:
        if not self._parts:
            return math.inf
        return min(self._last + self._call.linger, self._first + self._call.max_linger)

    def _full(self) -> bool:
        size, cost = self._call.limits()
        enough = size is not None and sum(len(part.values) for part in self._parts) >= size
        return enough or (cost is not None and sum(part.cost for part in self._parts) >= cost)

    def _send(self, group: TaskGroup) -> None:
        size, most = self._call.limits()
        taken = 0
        count, cost = 0, 0.0
        for part in self._parts:
            count, cost = count + len(part.values), cost + part.cost
            if taken and ((size is not None and count > size) or (most is not None and cost > most)):
                break
            taken += 1
        parts, self._parts = self._parts[:taken], self._parts[taken:]
        if parts:
            group.start_soon(Unbegun, self._carry, _Sent(parts), group)

    async def _carry(self, sent: _Sent, group: TaskGroup) -> None:
        if not sent.wanted():
            return
        sent.begun = True
        try:
            with sent.scope:
                if not await self._try(sent.parts):
                    # One of them is guilty: each is sent for itself.
                    for part in sent.parts:
                        if part.wanted:
                            group.start_soon(Unbegun, self._carry, _Sent([part]), group)
        finally:
            sent.ended.set()

    async def _try(self, parts: list[_Part]) -> bool:
        """Send `parts` and settle them; several that fail are left to be sent one by one."""
        # Each run has given one slot for this, and work nested in it gets no more.
        capped = any(part.strand.slots.limit is not None for part in parts)
        adaptive = any(part.strand.slots.adaptive for part in parts)
        slots = Slots(1 if capped else None, adaptive=adaptive)
        run = Run(slots)
        run.blockades = tuple({each for part in parts for each in part.strand.run.blockades})
        strand = Strand(run, Item(-1), parts[0].strand.config, slots, has_slot=slots.try_take())
        values = [value for part in parts for value in part.values]
        payer = strand.spending = _payer_of(parts, values)
        results: Sequence[Any] = ()
        failure: BaseException | None = None
        own = Host()
        try:
            results = await drive(strand_context(strand, Context()), self._answer(values, strand))
        except anyio.get_cancelled_exc_class() as error:
            if not await own.goes_on():  # or the lists of others would end with this task
                raise
            failure = StrayCancelledError.of(error)
        except BaseException as error:  # noqa: BLE001  raised in the runs
            failure = error
        finally:
            strand.close()
        if own.is_disturbed():
            left = await own.error_left()
            failure = left if failure is None else failure
        _account(parts, strand.item)
        # An interrupt says nothing about the lists, and is never followed by another attempt.
        if isinstance(failure, Exception):
            if payer is not None and payer.is_to_blame(failure):
                for part in parts:
                    part.leave_alone()
                return True
            if len(parts) > 1:
                return False
        start = 0
        for part in parts:
            stop = start + len(part.values)
            part.settle(results[start:stop], failure)
            start = stop
        return True

    async def _answer(self, values: list[Any], strand: Strand) -> Sequence[Any]:
        return check_length(self._call, values, await self._call.call(values, strand))


def _payer_of(parts: Sequence[_Part], values: Sequence[Any]) -> JointSpending | None:
    """Return who pays for a shared list: each run for its items; `None` if none of them has a limit."""
    if all(part.strand.spending is None for part in parts):
        return None
    payers: list[Payer | None] = []
    costs: list[float] = []
    total = sum(part.cost for part in parts)
    for part in parts:
        payer = part.strand.spending
        if isinstance(payer, JointSpending) and payer.items is part.values:
            payers += payer.payers
        else:
            payers += [payer] * len(part.values)
        costs += part.costs if total > 0 else [1.0] * len(part.values)
    # The runs' slots are not given up here, and so nothing waits here for what they have under way: it may
    # need such a slot.
    return JointSpending(values, payers, costs, waits=False)


def _account(parts: Sequence[_Part], book: Item) -> None:
    """Add the retries and seconds of a list to the books of its parts, and share out its tokens."""
    shares = share_bills(book, [part.cost or len(part.values) for part in parts])
    for part, bills in zip(parts, shares, strict=True):
        item = part.strand.item
        item.retries += book.retries
        item.add_bills(bills)
        item.add_request(book.request_seconds)
