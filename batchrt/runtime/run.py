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
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from anyio import CapacityLimiter

from batchrt.config import RunConfig
from batchrt.messages import Usage
from batchrt.runtime.blocking import Blockades, current_blockades
from batchrt.runtime.clock import Clock, common_offset
from batchrt.runtime.crew import Crew
from batchrt.runtime.loops import LoopHandle
from batchrt.runtime.outcome import total
from batchrt.runtime.slots import Slots
from batchrt.runtime.spending import Payer
from batchrt.runtime.traffic import Place, Source, Traffic

__all__ = ["Item", "Run", "Step", "StepCall", "Strand", "current_strand", "strand_context"]

UNCAPPED_THREADS: Final = 64
"""Threads for sync functions when `max_concurrency` is `None`. No cap on leaves is no wish for a
thousand threads; whoever wants them says so with a number."""


class Item:
    """Keep the books of one input: its place, its retries, its tokens, its seconds.

    Attributes:
        bills: the tokens that were billed, by model; `None` if no server said.
        request_seconds: those of the requests that were answered, from sending them to the end of the
            answer; `None` if there were none.
    """

    __slots__ = ("bills", "finished", "index", "parent", "request_seconds", "retries", "started")

    def __init__(self, index: int, parent: Item | None = None) -> None:
        self.index: int = index
        self.parent: Item | None = parent
        self.retries: int = 0
        self.bills: dict[str, Usage] | None = None
        self.request_seconds: float | None = None
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
        crew: helper tasks for forks; `None` for a run of a single item, which makes its own.
        direct: the run is driven without an event loop, in its caller's thread.
        loop: the event loop it runs on; `None` if direct.
        process: the one it runs in; a fork of it is no part of the run.
        threads: bounds the threads of sync functions where `slots` do not.
        traffic: who is on the way; shared with the run this is nested in.
        source: what admits its items; `None` for a run of a single one.
        spending: keeps it within its limits, and those of the run this is nested in; `None` for none.
        blockades: the sync calls that it works for, which block event loops meanwhile.
        held: how many of its strands wait for what is no leaf of theirs, such as a provider's quota.
    """

    __slots__ = (
        "_nested_in",
        "_offset",
        "_own_slots",
        "_sections",
        "blockades",
        "clock",
        "crew",
        "direct",
        "held",
        "loop",
        "process",
        "slots",
        "source",
        "spending",
        "threads",
        "traffic",
    )

    def __init__(self, slots: Slots, *, parent: Run | None = None, direct: bool = False) -> None:
        self.slots: Slots = slots
        self.direct: bool = direct
        self.process: int = os.getpid()
        self.crew: Crew | None = None
        self.loop: LoopHandle | None = None if direct else LoopHandle.current()
        self.clock: Clock = parent.clock if parent else Clock()
        self.source: Source | None = None
        self.spending: Payer | None = parent.spending if parent else None
        self.blockades: Blockades = current_blockades()
        self.held: int = 0
        self._offset: float | None = None
        near = parent if parent is not None and self._same_loop(parent) else None
        # A limiter belongs to its loop, and so do the tasks of a crew.
        self.threads: CapacityLimiter | None = near.threads if near else _limiter(slots, direct=direct)
        self.traffic: Traffic = near.traffic if near and near.traffic.crew else Traffic()
        self._sections: dict[tuple[object, Slots], Slots] = {}
        self._nested_in = parent
        self._own_slots = parent is not None and slots is not parent.slots

    def _same_loop(self, other: Run) -> bool:
        return self.loop is not None and other.loop is not None and self.loop.same(other.loop)

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

    def hire(self, crew: Crew) -> None:
        """Have helper tasks for forks, and for what strands wait for together."""
        self.crew = crew
        if self.traffic.crew is None:
            self.traffic.crew = crew

    def end(self) -> None:
        """Leave nothing of this run with the one it was nested in."""
        if self._nested_in is not None and self.traffic is self._nested_in.traffic and self.traffic.places:
            own = set(self._sections.values())
            if self._own_slots:
                own.add(self.slots)
            self.traffic.forget(own)

    def section(self, key: object, total: int | None, outer: Slots, *, adaptive: bool = False) -> Slots:
        """Return the slots of a part of the chain that has a cap of its own, one for all items."""
        slots = self._sections.get((key, outer))
        if slots is None:
            slots = self._sections[key, outer] = Slots(total, outer, adaptive=adaptive or None)
        return slots


def _limiter(slots: Slots, *, direct: bool) -> CapacityLimiter | None:
    if direct:
        return None
    return CapacityLimiter(UNCAPPED_THREADS if slots.limit is None else math.inf)


class Strand:
    """Carry one line of work: the slot it may hold, its configuration, its item, and who pays for it."""

    __slots__ = (
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
        self._nested = 0
        self._in_debt = False
        self._watched: list[Callable[[], object]] | None = None
        self._cancelled = False
        self._passed: list[Place] | None = None
        self.moving: bool = True
        run.traffic.moving += 1

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
        """End: give the slot up. User code that goes on in this context is no longer part of the item."""
        self.open = False
        self.give()
        self.halt()

    def halt(self) -> None:
        """Note that this strand waits for others and comes nowhere until `go`."""
        if self.moving:
            self.moving = False
            traffic = self.run.traffic
            traffic.moving -= 1
            for place in self._passed or ():
                place.beyond -= 1
            if traffic.places:
                traffic.slowed()

    def go(self) -> None:
        """Note that this strand goes on."""
        if not self.moving and self.open:
            self.moving = True
            self.run.traffic.moving += 1
            for place in self._passed or ():
                place.beyond += 1

    def passed(self) -> Sequence[Place]:
        """Return the places it has been to."""
        return self._passed or ()

    def visit(self, *places: Place) -> None:
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

    def hold(self) -> None:
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

    def branch(self) -> Strand:
        """Return a strand for one branch of a fork."""
        branch = Strand(self.run, self.item, self.config, self.slots)
        branch.spending = self.spending
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

    @contextmanager
    def visiting_thread(self) -> Iterator[None]:
        """Note that this strand is in a worker thread; what an earlier visit met is forgotten."""
        self.in_thread, self._cancelled = True, False
        try:
            yield
        finally:
            self.in_thread = False

    @contextmanager
    def watching(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Have `cancel` called if this strand is cancelled while it waits in a thread."""
        watched = self._watched = self._watched or []
        watched.append(cancel)
        if self._cancelled:
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

    @asynccontextmanager
    async def lending(self, *, newcomers: bool) -> AsyncIterator[None]:
        """Give the slot up for as long as work nested inside this strand's leaf runs.

        Without `newcomers` it is for the nested work, which is about to start, and no new item of the
        surrounding run may have it first: what was begun is finished before more is begun.

        A leaf may wait for several nested calls at once: the first to start gives the slot up, the last
        to end takes it back. A leaf that is cancelled meanwhile unwinds at once, on a slot that is
        overdrawn: no new leaf starts until it has ended.
        """
        if not (self.has_slot or self._nested):
            yield
            return
        self._lend(newcomers=newcomers)
        try:
            yield
        except Exception:
            # The leaf may handle it and go on: not without a slot.
            await self._take_back()
            raise
        except BaseException:
            self._end_lending()
            raise
        else:
            await self._take_back()

    def _lend(self, *, newcomers: bool) -> None:
        self._nested += 1
        self.give(newcomers=newcomers)
        if self._nested == 1:
            self._allow_threads(1)
            self._move(self.halt)

    async def _take_back(self) -> None:
        try:
            if self._nested == 1 and self.open:
                self._move(self.go)
                await self.take()
        finally:
            self._end_lending()

    def _move(self, change: Callable[[], None]) -> None:
        # Nested work may be on another loop, which has no say in the run's traffic: there the strand
        # counts as moving, and lists wait for it in vain, which `linger` bounds.
        loop = self.run.loop
        if loop is not None and loop.here():
            change()

    def _end_lending(self) -> None:
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
        self._allow_threads(-1)

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


class Step(NamedTuple):
    """A runnable as the runtime sees it.

    Attributes:
        call: see `StepCall`.
        inline: nothing in it waits: no slot, no task, no thread.
        direct: it may be driven without an event loop, by a run that is `direct`.
        lists: how long the longest list is that items may be sent in, of all steps in it; 0 if none
            takes lists.
        meets: parts of a single item may come to such a step at the same time.
        list_call: what the step does with lists, if it is nothing but such a step.
    """

    call: StepCall
    inline: bool = False
    direct: bool = False
    lists: int = 0
    meets: bool = False
    list_call: Any = None

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
