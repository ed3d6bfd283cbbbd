"""A run and the strands in it.

A *run* is one call of a batch method; what is nested inside it is a run too, under the same slots. A
*strand* is one line of work: an item on its way through its steps, or one branch of an item where the
item forks. A strand works by itself and therefore needs at most one slot: it takes it when it comes to
a leaf, keeps it from leaf to leaf (what lies between is inline and takes microseconds), and gives it up
before it waits for anything else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias
from weakref import WeakKeyDictionary

import anyio
from anyio import CancelScope, CapacityLimiter

from batchrt.config import RunConfig
from batchrt.messages import Usage
from batchrt.runtime.arrivals import Admission, Arrivals, RendezvousPoint
from batchrt.runtime.blocked_loops import Blockades, current_blockades
from batchrt.runtime.clock import Clock, common_offset
from batchrt.runtime.event_loop import LoopHandle, Signal
from batchrt.runtime.outcome import total
from batchrt.runtime.slots import LentSlots, Slots
from batchrt.runtime.spending import Payer
from batchrt.runtime.task_pool import TaskPool

if TYPE_CHECKING:
    from batchrt.errors import SpendingLimitError

__all__ = [
    "Item",
    "ListRun",
    "NewListRun",
    "Run",
    "Step",
    "StepCall",
    "Strand",
    "current_strand",
    "strand_context",
]

UNCAPPED_THREADS: Final = 64
"""Threads for sync functions when `max_concurrency` is `None`. No cap on leaves is no wish for a
thousand threads; whoever wants them says so with a number."""


class Item:
    """Keep the books of one input: its place, its retries, its tokens, its seconds.

    Attributes:
        bills: the tokens that were billed, by model; `None` if no server said.
        request_seconds: those of the requests that were answered, from sending them to the end of the
            answer; `None` if there were none.
        waits: seconds of waiting for a quota, by what was waited for; `None` if there were none.
    """

    __slots__ = ("bills", "finished", "index", "parent", "request_seconds", "retries", "started", "waits")

    def __init__(self, index: int, parent: Item | None = None) -> None:
        self.index: int = index
        self.parent: Item | None = parent
        self.retries: int = 0
        self.bills: dict[str, Usage] | None = None
        self.request_seconds: float | None = None
        self.waits: dict[str, float] | None = None
        self.started: float = 0.0
        self.finished: float = 0.0

    @property
    def usage(self) -> Usage | None:
        """The tokens that were billed, of all models together; `None` if no server said."""
        return None if self.bills is None else total(self.bills)

    def add_usage(self, usage: Usage, model: str = "") -> None:
        """Add what a call to `model` was billed, to this item and to the one it is nested in."""
        bills = self.bills
        if bills is None:
            self.bills = {model: usage}
        else:
            known = bills.get(model)
            bills[model] = usage if known is None else known + usage
        if self.parent is not None:
            self.parent.add_usage(usage, model)

    def add_bills(self, bills: Mapping[str, Usage] | None) -> None:
        """Add a share of what a list was billed."""
        for model, usage in (bills or {}).items():
            self.add_usage(usage, model)

    def add_book(self, book: Item) -> None:
        """Add the retries, the bill and the requests' seconds of a part of a list."""
        self.retries += book.retries
        self.add_bills(book.bills)
        self.add_request(book.request_seconds)

    def add_wait(self, reason: str, seconds: float) -> None:
        """Add seconds of waiting for a quota, to this item and to the one it is nested in."""
        if self.waits is None:
            self.waits = {}
        self.waits[reason] = self.waits.get(reason, 0.0) + seconds
        if self.parent is not None:
            self.parent.add_wait(reason, seconds)

    def add_request(self, seconds: float | None) -> None:
        """Add the seconds of requests that were answered, to this item and to the one it is nested in."""
        if seconds is None:
            return
        self.request_seconds = seconds + (self.request_seconds or 0.0)
        if self.parent is not None:
            self.parent.add_request(seconds)


class Run:
    """Hold what the strands of a run share.

    Attributes:
        slots: the run's right to run leaves.
        task_pool: helper tasks for forks; `None` for a run of a single item, which makes its own.
        above: the strand whose leaf the run is nested in, if any.
        direct: the run is driven without an event loop, in its caller's thread.
        loop: the event loop it runs on; `None` if direct.
        process: the one it runs in; a fork of it is no part of the run.
        threads: bounds the threads of sync functions where `slots` do not.
        arrivals: who is on the way; shared with the run this is nested in.
        source: what admits its items; `None` for a run of a single one.
        spending: keeps it within its limits, and those of the run this is nested in; `None` for none.
        blockades: the sync calls that it works for, which block event loops meanwhile.
        held: how many of its strands wait for what is no leaf of theirs, such as a provider's quota.
        calls: how many calls from its strands' threads are under way on its loop.
    """

    __slots__ = (
        "_nested_in",
        "_offset",
        "_own_slots",
        "_sections",
        "_vacated",
        "above",
        "arrivals",
        "blockades",
        "calls",
        "clock",
        "direct",
        "held",
        "loop",
        "process",
        "slots",
        "source",
        "spending",
        "task_pool",
        "threads",
    )

    def __init__(self, slots: Slots, *, parent: Run | None = None, direct: bool = False) -> None:
        self.slots: Slots = slots
        self.direct: bool = direct
        self.above: Strand | None = None
        self.process: int = os.getpid()
        self.task_pool: TaskPool | None = None
        self.loop: LoopHandle | None = None if direct else LoopHandle.current()
        self.clock: Clock = parent.clock if parent else Clock()
        self.source: Admission | None = None
        self.spending: Payer | None = parent.spending if parent else None
        self.blockades: Blockades = current_blockades()
        self.held: int = 0
        self.calls: int = 0
        self._vacated: Signal | None = None
        self._offset: float | None = None
        near = parent if parent is not None and self._same_loop(parent) else None
        # A limiter belongs to its loop, and so do the tasks of a task_pool.
        self.threads: CapacityLimiter | None = near.threads if near else _limiter(slots, direct=direct)
        self.arrivals: Arrivals = near.arrivals if near and near.arrivals.task_pool else Arrivals()
        self._sections: dict[tuple[int, Slots], tuple[object, Slots]] = {}
        self._nested_in = parent
        self._own_slots = parent is not None and slots is not parent.slots

    def _same_loop(self, other: Run) -> bool:
        return self.loop is not None and other.loop is not None and self.loop.same(other.loop)

    @property
    def outermost(self) -> Run:
        """The run that this one is nested in, however deep; itself if it is in none."""
        run = self
        while run._nested_in is not None:
            run = run._nested_in
        return run

    @property
    def offset(self) -> float:
        """What to add to its loop's time for the time that all loops have in common."""
        if self._offset is None:
            self._offset = common_offset()
        return self._offset

    def now(self) -> float:
        """Return the time that all event loops have in common."""
        assert self.loop is not None
        return self.loop.time() + (self.offset if self._offset is None else self._offset)

    def hire(self, task_pool: TaskPool) -> None:
        """Have helper tasks for forks, and for what strands wait for together."""
        self.task_pool = task_pool
        if self.arrivals.task_pool is None:
            self.arrivals.task_pool = task_pool

    def end(self) -> None:
        """Leave nothing of this run with the one it was nested in."""
        if self._nested_in is not None and self.arrivals is self._nested_in.arrivals and self.arrivals.places:
            own = {slots for _, slots in self._sections.values()}
            if self._own_slots:
                own.add(self.slots)
            self.arrivals.forget(own)

    def begin_call(self) -> None:
        """Count a call from a strand's thread; on the run's loop."""
        self.calls += 1

    def end_call(self) -> None:
        """Count one call less."""
        self.calls -= 1
        if not self.calls and self._vacated is not None:
            self._vacated.set()

    async def wait_for_calls(self) -> None:
        """Return when no call is under way any more; ended strands have cancelled theirs."""
        with CancelScope(shield=True):
            while self.calls:
                self._vacated = Signal()
                await self._vacated.wait()

    def section(self, key: object, total: int | None, outer: Slots, *, adaptive: bool = False) -> Slots:
        """Return the slots of a part of the chain that has a cap of its own, one for all items."""
        known = self._sections.get((id(key), outer))
        if known is None:
            slots = Slots(total, outer, adaptive=adaptive or None)
            # With the key, whose id may be nobody else's meanwhile.
            known = self._sections[id(key), outer] = (key, slots)
        return known[1]


def _limiter(slots: Slots, *, direct: bool) -> CapacityLimiter | None:
    if direct:
        return None
    return CapacityLimiter(UNCAPPED_THREADS if slots.limit is None else math.inf)


class _Lending(AbstractAsyncContextManager[None]):
    """What `Strand.lending` returns. One of contextlib's would fail on an exception that is frozen."""

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


class Strand:
    """Carry one line of work: the slot it may hold, its configuration, its item, and who pays for it.

    Attributes:
        scopes: the cancel scopes that the runtime has put around it, within its run's.
        spending: who pays for its requests; `None` for no limit.
    """

    __slots__ = (
        "_afar",
        "_cancelled",
        "_in_debt",
        "_nested",
        "_passed",
        "_watched",
        "config",
        "has_slot",
        "in_thread",
        "item",
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
        self.scopes: tuple[CancelScope, ...] = ()
        self._nested = 0
        self._in_debt = False
        self._watched: list[Callable[[], object]] | None = None
        self._afar: WeakKeyDictionary[LentSlots, LoopHandle] | None = None
        self._cancelled = False
        self._passed: list[RendezvousPoint] | None = None
        self.moving: bool = True
        run.arrivals.moving += 1

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

        What a thread of the user's still waits for on the strand's behalf is cancelled.
        """
        self.open = False
        if self._watched:
            self.cancel_nested()
        if self._afar:
            for slots, loop in list(self._afar.items()):
                if loop.closed():
                    slots.take_back()
        if self.has_slot or self._in_debt:
            self.give()
        self.halt()

    def halt(self) -> None:
        """Note that this strand waits for others and comes nowhere until `go`."""
        if self.moving:
            self.moving = False
            arrivals = self.run.arrivals
            arrivals.moving -= 1
            for place in self._passed or ():
                place.beyond -= 1
            if arrivals.places:
                arrivals.slowed()

    def go(self) -> None:
        """Note that this strand goes on."""
        if not self.moving and self.open:
            self.moving = True
            self.run.arrivals.moving += 1
            for place in self._passed or ():
                place.beyond += 1

    def passed(self) -> Sequence[RendezvousPoint]:
        """Return the places it has been to."""
        return self._passed or ()

    def visit(self, *places: RendezvousPoint) -> None:
        """Note that it, or a branch of it, has come to `places`, and will hardly come again."""
        if self._passed is None:
            self._passed = []
        for place in places:
            if place not in self._passed:
                self._passed.append(place)
                place.beyond += self.moving

    def start_over(self) -> None:
        """Note that it begins with something new, and may come to every place again."""
        if self._passed is not None:
            for place in self._passed:
                place.beyond -= self.moving
            self._passed = None

    def wait_throttled(self) -> None:
        """Give the slot up to wait for what more items could only make longer, until `release`.

        The slot is for those under way. Of new items only as many are admitted meanwhile as can be held
        without their waiting all of their `timeout` here.
        """
        self.run.held += 1
        self.give()

    def release(self) -> None:
        """Note that this strand waits no longer."""
        run = self.run
        run.held -= 1
        if run.source is not None:
            run.source.resume()

    def branch(self, *scopes: CancelScope) -> Strand:
        """Return a strand for one branch of a fork, which runs in `scopes`."""
        branch = Strand(self.run, self.item, self.config, self.slots)
        branch.spending = self.spending
        branch.scopes = (*self.scopes, *scopes)
        return branch

    @contextmanager
    def standing_in(self) -> Iterator[Strand]:
        """Return a strand for nested work that is waited for by blocking this strand's own event loop.

        Nobody on that loop can give a slot back meanwhile, so the nested work gets this strand's own
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
        """Note that this strand is in a worker thread; what an earlier visit met is forgotten."""
        self.in_thread, self._cancelled = True, False

    def leave_thread(self) -> None:
        """Note that it is back."""
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
        """Cancel what this strand's thread waits for, now and from now on."""
        self._cancelled = True
        for cancel in list(self._watched or ()):
            cancel()

    def lending(self, *, newcomers: bool) -> AbstractAsyncContextManager[None]:
        """Give the slot up for as long as work nested inside this strand's leaf runs.

        Without `newcomers` it is for the nested work, which is about to start, and no new item of the
        surrounding run may have it first: what was begun is finished before more is begun.

        A leaf may wait for several nested calls at once: the first to start gives the slot up, the last
        to end takes it back, however it ended: a leaf that put a cancel scope of its own around nested work
        goes on when that is cancelled. Only what the runtime itself has cancelled, as by an item's timeout,
        does not wait: it unwinds at once, if need be on a slot that is overdrawn, and no new leaf starts
        until it has ended.
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
            # Cancelled nested work gave back what it had for this leaf alone, which needs one of them.
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


StepCall: TypeAlias = Callable[[Any, Strand], Any]
"""Carries a value through: gives the output if the step is inline, else an awaitable of it."""


class ListRun(Protocol):
    """A run whose items are lists of its inputs; see `Step.bulk`.

    Attributes:
        ended: the error of the spending limit that ended the run before all lists were sent.
    """

    ended: SpendingLimitError | None

    async def look_at(self, inputs: Iterable[Any]) -> int:
        """Take the inputs in and return their number."""
        ...

    def lists(self) -> Iterator[Any]:
        """Yield the lists to send."""
        ...

    @property
    def step(self) -> Step:
        """The step that sends one of them."""
        ...


class NewListRun(Protocol):
    """Make the `ListRun` of inputs that are all known; each input's outcome is given to `put`."""

    def __call__(
        self,
        config: RunConfig,
        put: Callable[[Item, Any, Exception | None], object],
        *,
        fail_fast: bool,
        parent: Item | None,
    ) -> ListRun:
        """Return the run; no input has been looked at yet."""
        ...


class Step(NamedTuple):
    """A runnable as the runtime sees it.

    Attributes:
        call: see `StepCall`.
        inline: nothing in it waits: no slot, no task, no thread.
        direct: it may be driven without an event loop, by a run that is `direct`.
        lists: how long the longest list is that items may be sent in, of all steps in it; 0 if none
            takes lists.
        meets: parts of a single item may come to such a step at the same time.
        bulk: makes a run of lists, if the step does nothing but take lists.
    """

    call: StepCall
    inline: bool = False
    direct: bool = False
    lists: int = 0
    meets: bool = False
    bulk: NewListRun | None = None

    @classmethod
    def of(cls, call: StepCall, parts: Iterable[Step], *, direct: bool = False, forks: bool = False) -> Step:
        """Return a step that is put together from `parts`; `forks` says that these run at the same time."""
        parts = list(parts)
        lists = max((part.lists for part in parts), default=0)
        meets = any(part.meets for part in parts) or (forks and lists > 0)
        return cls(call, direct=direct, lists=lists, meets=meets)


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
