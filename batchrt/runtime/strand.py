"""A strand: one line of work in a run.

An item on its way through its steps is a strand, and so is one branch of an item where the item forks.

Invariant: a strand holds at most one slot of its `Slots`, and none while it waits for anything but a leaf
of its own. It takes the slot at its first leaf, keeps it from leaf to leaf (the steps in between are inline
and take microseconds), and gives it up before a retry's sleep, a fork's other branches, nested work or a
queue. So no strand waits for a slot while it holds one of the same `Slots`, and a run cannot deadlock.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary

import anyio
from anyio import CancelScope, CapacityLimiter

from batchrt.config import RunConfig
from batchrt.runtime.arrivals import RendezvousPoint
from batchrt.runtime.event_loop import LoopHandle
from batchrt.runtime.slots import LentSlots, Slots
from batchrt.runtime.spending import Payer

if TYPE_CHECKING:
    from batchrt.runtime.item import Item
    from batchrt.runtime.run import Run

__all__ = ["Carrier", "Strand", "current_strand", "strand_context"]


class _Lending(AbstractAsyncContextManager[None]):
    """The context manager of `Strand.lending`. One of contextlib's would fail on a frozen exception."""

    __slots__ = ("_lent", "_newcomers", "_strand")

    def __init__(self, strand: Strand, *, newcomers: bool) -> None:
        self._strand = strand
        self._newcomers = newcomers
        self._lent = False

    async def __aenter__(self) -> None:
        self._lent = self._strand._lends(newcomers=self._newcomers)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._lent:
            return
        if kind is None or issubclass(kind, Exception):
            # The leaf may handle an error and go on: not without a slot.
            await self._strand._take_back()
        elif issubclass(kind, anyio.get_cancelled_exc_class()):
            await self._strand._take_back_cancelled()
        else:
            self._strand._end_lending()


class Carrier(Protocol):
    """Carry a list with the inputs of several strands."""

    @property
    def is_at_work(self) -> bool:
        """Whether the list has a slot."""
        ...


class Strand:
    """Carry one line of work: the slot it may hold, its configuration, its item, and its payer.

    Attributes:
        above: the strand that it is a branch of, if any.
        scopes: the cancel scopes that the runtime has put around it, within its run's.
        spending: pays for its requests; `None` for no limit.
        list: carries its input in a list with others', while it waits for that; else `None`.
    """

    __slots__ = (
        "_afar",
        "_cancelled",
        "_in_debt",
        "_nested",
        "_passed",
        "_watched",
        "above",
        "config",
        "has_slot",
        "in_thread",
        "item",
        "list",
        "moving",
        "open",
        "run",
        "scopes",
        "slots",
        "spending",
    )

    def __init__(
        self, run: Run, item: Item, config: RunConfig, slots: Slots, *, has_slot: bool = False
    ) -> None:
        self.run: Run = run
        self.item: Item = item
        self.config: RunConfig = config
        self.slots: Slots = slots
        self.has_slot: bool = has_slot
        self.spending: Payer | None = run.spending
        self.in_thread: bool = False
        self.open: bool = True
        self.above: Strand | None = None
        self.list: Carrier | None = None
        self.scopes: tuple[CancelScope, ...] = ()
        self._nested = 0
        self._in_debt = False
        self._watched: list[Callable[[], object]] | None = None
        self._afar: WeakKeyDictionary[LentSlots, LoopHandle] | None = None
        self._cancelled = False
        self._passed: list[RendezvousPoint] | None = None
        self.moving: bool = True
        run.arrivals.moving += 1
        if run.live is not None:
            run.live.add(self)

    async def take(self) -> None:
        """Wait for a slot unless this strand has one; call it right before a leaf's own work."""
        if not self.has_slot:
            self._pay()
            if not self.slots.try_take():
                await self.slots.take()
            self.has_slot = True

    def give(self, *, newcomers: bool = True) -> None:
        """Give the slot up, if there is one; call it before waiting for anything but a leaf."""
        if self.has_slot:
            self.has_slot = False
            self.slots.give(newcomers=newcomers)
        else:
            self._pay()

    def _pay(self) -> None:
        # The leaf that was unwinding on a slot too many has ended.
        if self._in_debt:
            self._in_debt = False
            self.slots.give()

    def close(self) -> None:
        """End: give the slot up. User code that goes on in this context is no longer part of the item.

        Nested work that a thread of the user's still waits for on the strand's behalf is cancelled.
        """
        self.open = False
        if self.run.live is not None:
            self.run.live.discard(self)
        if self._watched:
            self.cancel_nested()
        if self._afar:
            for slots, loop in list(self._afar.items()):
                if not loop.is_open():
                    slots.take_back()
        if self.has_slot or self._in_debt:
            self.give()
        self.halt()

    def halt(self) -> None:
        """Record that this strand waits for others and comes nowhere until `go`."""
        if self.moving:
            self.moving = False
            arrivals = self.run.arrivals
            arrivals.moving -= 1
            for place in self._passed or ():
                place.beyond -= 1
            if arrivals.places:
                arrivals.slowed()

    def go(self) -> None:
        """Record that this strand goes on."""
        if not self.moving and self.open:
            self.moving = True
            self.run.arrivals.moving += 1
            for place in self._passed or ():
                place.beyond += 1

    def passed(self) -> Sequence[RendezvousPoint]:
        """Return the places it has been to."""
        return self._passed or ()

    def visit(self, *places: RendezvousPoint) -> None:
        """Record that it, or a branch of it, has come to `places`, and will hardly come again."""
        if self._passed is None:
            self._passed = []
        for place in places:
            if place not in self._passed:
                self._passed.append(place)
                place.beyond += self.moving

    def start_over(self) -> None:
        """Record that it begins with something new, and may come to every place again."""
        if self._passed is not None:
            for place in self._passed:
                place.beyond -= self.moving
            self._passed = None

    def count_retry(self) -> None:
        """Count an attempt of the item after its first."""
        self.item.retries += 1
        self.run.counts.add(retries=1)

    def wait_throttled(self) -> None:
        """Give the slot up to wait for a limit, which more items could only make longer, until `release`.

        The slot is for those under way. Of new items only as many are admitted meanwhile as can be held
        without their waiting all of their `timeout` here.
        """
        self.run.held += 1
        self.give()

    def release(self) -> None:
        """Record that this strand waits no longer."""
        run = self.run
        run.held -= 1
        if run.source is not None:
            run.source.resume()

    def branch(self, *scopes: CancelScope) -> Strand:
        """Return a strand for one branch of a fork, which runs in `scopes`."""
        branch = Strand(self.run, self.item, self.config, self.slots)
        branch.above = self
        branch.spending = self.spending
        branch.scopes = (*self.scopes, *scopes)
        return branch

    @property
    def is_at_work(self) -> bool:
        """Whether a leaf runs, a list with its input is under way, or another loop may work for it."""
        if self.has_slot or self._in_debt or self._afar:
            return True
        return self.list is not None and self.list.is_at_work

    @contextmanager
    def standing_in(self) -> Iterator[Strand]:
        """Return a strand for nested work that is waited for by blocking this strand's own event loop.

        No strand on that loop can give a slot back meanwhile, so the nested work gets this strand's own
        slot and no other.
        """
        slots = self.slots
        if slots.limit is None:
            stand_in = self.branch()
            try:
                yield stand_in
            finally:
                stand_in.close()
            return
        overdrawn = not self.has_slot
        if overdrawn:
            slots.take_now()
        stand_in = Strand(self.run, self.item, self.config, Slots(1))
        stand_in.spending = self.spending
        # This leaf is at work itself while it does not wait: between the items of a stream, say.
        stand_in.has_slot = stand_in.slots.try_take()
        try:
            yield stand_in
        finally:
            stand_in.close()
            if overdrawn:
                slots.give()

    def enter_thread(self) -> None:
        """Record that this strand is in a worker thread; a cancellation of an earlier visit is forgotten."""
        self.in_thread, self._cancelled = True, False

    def leave_thread(self) -> None:
        """Record that it is back."""
        self.in_thread = False

    @contextmanager
    def watching(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Have `cancel` called if this strand is cancelled while it waits in a thread."""
        watched = self._watched = self._watched or []
        watched.append(cancel)
        if self._cancelled or not self.open:
            cancel()
        try:
            yield
        finally:
            watched.remove(cancel)

    def cancel_nested(self) -> None:
        """Cancel the calls that this strand's thread waits for, now and from now on."""
        self._cancelled = True
        for cancel in list(self._watched or ()):
            cancel()

    def lending(self, *, newcomers: bool) -> AbstractAsyncContextManager[None]:
        """Give the slot up for as long as work nested inside this strand's leaf runs.

        Without `newcomers` it is for the nested work, which is about to start, and no new item of the
        surrounding run may have it first: items that were begun are finished before more are begun.

        A leaf may wait for several nested calls at once: the first to start gives the slot up, the last
        to end takes it back, however it ended: a leaf that put a cancel scope of its own around nested work
        goes on when that is cancelled. Only a leaf that the runtime itself has cancelled, as by an item's
        timeout, does not wait: it unwinds at once, if need be on a slot that is overdrawn, and no new leaf
        starts until it has ended.
        """
        return _Lending(self, newcomers=newcomers)

    def lend_afar(self, loop: LoopHandle, cap: int | None) -> LentSlots:
        """Return the slots for nested work on a loop of a function's own."""
        slots = LentSlots(self.slots.limit if cap is None else cap, self.slots)
        if self._afar is None:
            self._afar = WeakKeyDictionary()
        self._afar[slots] = loop
        return slots

    def _lends(self, *, newcomers: bool) -> bool:
        """Give the slot up to nested work; `False` if there is none to give."""
        if not (self.has_slot or self._in_debt or self._nested):
            return False
        self._nested += 1
        self.give(newcomers=newcomers)
        if self._nested == 1:
            self._allow_threads(1)
            self._move(self.halt)
        return True

    async def _take_back(self) -> None:
        cancelled = False
        try:
            if self._nested == 1 and self.open:
                self._move(self.go)
                await self.take()
        except anyio.get_cancelled_exc_class():
            cancelled = True
            await self._take_before_going_on()
            raise
        finally:
            self._end_lending(offer=cancelled)

    async def _take_back_cancelled(self) -> None:
        try:
            await self._take_before_going_on()
        finally:
            self._end_lending(offer=True)

    async def _take_before_going_on(self) -> None:
        """Take the slot back in a leaf that was cancelled, and may go on for all that is known.

        Its own scope, inside of which it stands, must not end the wait; the runtime's do.
        """
        if self._nested == 1 and self.open and not self._is_doomed():
            self._move(self.go)
            with CancelScope(shield=True, deadline=self._deadline()):
                await self.take()

    def _is_doomed(self) -> bool:
        """Whether the runtime has cancelled the item, or a part of it that this leaf belongs to."""
        return any(scope.cancel_called for scope in self._scopes_around())

    def _deadline(self) -> float:
        return min((scope.deadline for scope in self._scopes_around()), default=math.inf)

    def _scopes_around(self) -> Iterator[CancelScope]:
        """Yield the scopes that the runtime has put around this leaf, on this event loop."""
        strand: Strand | None = self
        while strand is not None and strand.run.loop is not None and strand.run.loop.here():
            yield from strand.scopes
            if strand.run.task_pool is not None:
                yield strand.run.task_pool.scope
            strand = strand.run.above

    def _end_lending(self, *, offer: bool = False) -> None:
        self._nested -= 1
        if self._nested:
            # Another nested call began while this one waited to take the slot back: it may need it.
            self.give()
            self._move(self.halt)
            return
        self._move(self.go)
        if self.open and not self.has_slot:
            self.slots.take_now()
            self._in_debt = True
        if offer or not self.open:
            # Cancelled nested work gave its slots back for this leaf alone, which needs one of them.
            self.slots.offer()
        self._allow_threads(-1)

    def _move(self, change: Callable[[], None]) -> None:
        # Nested work may be on another loop, which has no say in the run's arrivals: there the strand
        # counts as moving, and lists wait for it in vain, which `linger` bounds.
        loop = self.run.loop
        if loop is not None and loop.here():
            change()

    def _allow_threads(self, more: int) -> None:
        # The thread that this strand is in waits, so another may start. The nested work may be on a
        # loop of its own; the limiter belongs to the run's.
        limiter, loop = self.run.threads, self.run.loop
        if self.in_thread and limiter is not None and loop is not None:
            loop.call(partial(_widen, limiter, more))


def _widen(limiter: CapacityLimiter, more: int) -> None:
    limiter.total_tokens += more


_current: Final[ContextVar[Strand | None]] = ContextVar("batchrt_strand", default=None)


def current_strand() -> Strand | None:
    """Return the strand whose leaf the caller is in, or `None` outside of any run."""
    strand = _current.get()
    if strand is None or not strand.open or strand.run.process != os.getpid():
        return None
    return strand


def strand_context(strand: Strand, base: Context | None = None) -> Context:
    """Return a copy of `base` (the caller's context if `None`) that belongs to `strand`."""
    context = base.copy() if base is not None else copy_context()
    context.run(_current.set, strand)
    return context
