"""Promise 1: no more leaf calls at once than there are slots.

A strand holds a slot while it does work of its own, and not while it waits: not a retry that
sleeps, not a leaf that waits for work nested inside it. No strand ever waits for a slot
while holding one of the same `Slots`, so there is nothing to deadlock on, at any nesting and at cap 1.

No thread ever waits for the lock either. Python may run code of the user's between any two steps of a
critical section (a finalizer that the garbage collector calls, a signal handler), and that code may batch
in turn: it would wait for the frame that it interrupts. So a thread that finds the lock taken leaves its
change in a queue, and the thread that holds the lock makes it before it goes on (flat combining).
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence

from batchrt.runtime.event_loop import Signal

__all__ = ["LentSlots", "Slots", "Waiter"]


class Waiter:
    """Wait for one slot; made on the event loop that waits, granted from any thread."""

    __slots__ = ("_undecided", "_unwanted", "at", "granted", "passed", "signal", "withdrawn")

    def __init__(self) -> None:
        self.signal: Signal | None = None
        self.granted: bool = False
        self.withdrawn: bool = False
        self.at: Slots | None = None
        self.passed: list[Slots] = []
        self._undecided: list[None] = []
        self._unwanted: list[None] = []

    def begin(self, at: Slots) -> None:
        """Wait, at one level of slots."""
        self.granted = False
        self.signal = Signal()
        self.at = at
        self._unwanted = [None]
        self._undecided.append(None)

    def grant(self) -> bool:
        """Have the slot, to be told by `wake`; `False` if it was withdrawn before."""
        try:
            self._undecided.pop()  # of all that ask for it at once, one gets it
        except IndexError:
            return False
        self.granted = True
        return True

    def wake(self) -> bool:
        """Let the task that waits go on; `False` if its loop has ended, and the slot is for another."""
        assert self.signal is not None
        if self.signal.set():
            return True
        self.granted, self.withdrawn = False, True
        return not self._is_given_back()

    def _is_given_back(self) -> bool:
        """Whether the slot that the task will never know of is the caller's to give back: once."""
        try:
            self._unwanted.pop()
        except IndexError:
            return False
        return True

    def abandon(self) -> Sequence[Slots]:
        """Stop waiting for a task that will never go on; return where it has slots to be given back."""
        levels, self.passed = self.passed, []
        # Granted, but the loop was closed before the task went on.
        if not self.withdraw() and self._is_given_back() and self.at is not None:
            levels = [*levels, self.at]
        self.withdrawn = True
        return levels

    def withdraw(self) -> bool:
        """Stop waiting, wherever it is; `False` if it has its slot already."""
        if self.withdrawn or self.signal is None:
            self.withdrawn = True
            return True
        try:
            self._undecided.pop()
        except IndexError:
            return False
        self.withdrawn = True
        self.signal.set()
        return True


class Slots:
    """Count out `total` slots, first come first served; `None` is without end.

    Strands that are under way are served before newcomers (`newcomer=True`), so that an item that was started
    is finished first. With a `parent`, a slot here is also a slot there. `adaptive` says that requests
    under it are as many at once as their provider's quota finds best. All methods may be called
    from any thread: leaves run in threads, and a function may start an event loop of its own.
    """

    __slots__ = (
        *("_free", "_late", "_lock", "_newcomers", "_parent", "_waiters", "_withheld"),
        *("adaptive", "total"),
    )

    def __init__(
        self, total: int | None, parent: Slots | None = None, *, adaptive: bool | None = None
    ) -> None:
        self.total: int | None = total
        above = parent is not None and parent.adaptive
        self.adaptive: bool = above if adaptive is None else adaptive
        self._free: float = math.inf if total is None else total
        self._withheld = 0
        self._parent = parent
        self._lock = threading.Lock()
        self._late: deque[tuple[int, bool]] = deque()
        self._waiters: deque[Waiter] = deque()
        self._newcomers: deque[Waiter] = deque()

    @property
    def limit(self) -> int | None:
        """The tightest cap that a slot here is under."""
        above = self._parent.limit if self._parent else None
        caps = [cap for cap in (self.total, above) if cap is not None]
        return min(caps) if caps else None

    @property
    def free(self) -> float:
        """How many slots are free right now; `inf` without a cap."""
        above = self._parent.free if self._parent else math.inf
        return min(self._free, above)

    @property
    def taken(self) -> int:
        """How many slots are taken right now; 0 without a cap."""
        return 0 if self.total is None else int(self.total - self._withheld - self._free)

    def withhold(self, count: int) -> None:
        """Leave so many of the slots unused from now on; leaves that have one of them finish."""
        more, self._withheld = self._withheld - count, count
        self._change(more, newcomers=True)

    def wanted(self) -> bool:
        """Whether a strand that is under way waits for a slot, or more slots are taken than there are."""
        if self._waiters or self._free < 0:
            return True
        return self._parent is not None and self._parent.wanted()

    def try_take(self) -> bool:
        """Take a slot if one is free and no strand waits for it.

        `False` also where another thread is at it in this very moment, or this one further down its stack.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            taken = self._free > 0 and not self._waiters
            if taken:
                self._free -= 1
        finally:
            self._lock.release()
        if self._late:
            self._catch_up()
        if taken and self._parent is not None and not self._parent.try_take():
            self._change(1, newcomers=True)
            return False
        return taken

    def take_now(self) -> None:
        """Take a slot even if there is none: no new leaf starts until the debt is paid.

        For a leaf that was cancelled while its nested work ran, and has to unwind, now.
        """
        self._change(-1, newcomers=False)
        if self._parent is not None:
            self._parent.take_now()

    async def take(self, waiter: Waiter | None = None, *, newcomer: bool = False) -> bool:
        """Wait for a slot; return whether it was granted (`False` only for a withdrawn `waiter`)."""
        waiter = waiter or Waiter()
        if not await self._take_own(waiter, newcomer=newcomer):
            return False
        if self._parent is None:
            return True
        granted = False
        waiter.passed.append(self)
        try:
            granted = await self._parent.take(waiter)
        finally:
            if self in waiter.passed:
                waiter.passed.remove(self)
                if not granted:
                    self._change(1, newcomers=True)
        return granted

    async def _take_own(self, waiter: Waiter, *, newcomer: bool) -> bool:
        if waiter.withdrawn:
            return False
        waiter.begin(self)
        assert waiter.signal is not None
        if newcomer:
            self._newcomers.append(waiter)
        else:
            self._waiters.append(waiter)
        # A free slot belongs to the first strand that asks; newcomers that were not offered it do not ask.
        self._change(0, newcomers=newcomer)
        if waiter.granted:
            return True
        try:
            await waiter.signal.wait()
        except BaseException:
            if not waiter.withdraw():
                self._change(1, newcomers=True)
            raise
        return waiter.granted

    def give(self, *, newcomers: bool = True) -> None:
        """Give a slot back, to the longest waiter; without `newcomers`, not to one of those.

        A leaf that lends its slot to nested work means it for that work, which asks for it at once.
        """
        # The outer slot first: a waiter that is woken here goes on to ask for one there.
        if self._parent is not None:
            self._parent.give(newcomers=newcomers)
        self._change(1, newcomers=newcomers)

    def offer(self) -> None:
        """Let newcomers have the free slots."""
        self._change(0, newcomers=True)
        if self._parent is not None:
            self._parent.offer()

    def _change(self, more: int, *, newcomers: bool) -> None:
        """Have so many slots more, and grant the free ones; without `newcomers`, not to one of those."""
        if not self._lock.acquire(blocking=False):
            self._late.append((more, newcomers))
            self._catch_up()
            return
        granted: Sequence[Waiter] = ()
        try:
            self._free += more
            if self._waiters or (newcomers and self._newcomers):
                granted = self._grant(newcomers=newcomers)
        finally:
            self._lock.release()
        if self._late:
            self._catch_up()
        for waiter in granted:
            if not waiter.wake():
                self._change(1, newcomers=True)

    def _catch_up(self) -> None:
        """Make the changes that came while the lock was taken, unless somebody else is about to.

        The thread that holds it looks here once more after it has released it.
        """
        while self._late and self._lock.acquire(blocking=False):
            all_granted: list[Waiter] = []
            try:
                while self._late:
                    more, newcomers = self._late.popleft()
                    self._free += more
                    all_granted += self._grant(newcomers=newcomers)
            finally:
                self._lock.release()
            for waiter in all_granted:
                if not waiter.wake():
                    self._change(1, newcomers=True)

    def _grant(self, *, newcomers: bool) -> Sequence[Waiter]:
        granted: Sequence[Waiter] = ()
        while self._free > 0 and (queue := self._waiters or (newcomers and self._newcomers)):
            waiter = queue.popleft()
            if waiter.grant():
                self._free -= 1
                granted = (*granted, waiter)
        return granted


class LentSlots(Slots):
    """Count the slots of `parent` that nested work on another event loop has.

    Such a loop belongs to the function that started it, which may close it with tasks in it. They will never
    give back their slots.
    """

    __slots__ = ("__weakref__", "_asking", "_held", "_lost", "_outer")

    def __init__(self, total: int | None, parent: Slots) -> None:
        super().__init__(total, parent)
        self._outer = parent
        self._asking: set[Waiter] = set()
        self._held = self._lost = 0

    def try_take(self) -> bool:
        """Do as `Slots.try_take`."""
        taken = super().try_take()
        self._held += taken
        return taken

    def take_now(self) -> None:
        """Do as `Slots.take_now`."""
        super().take_now()
        self._held += 1

    async def take(self, waiter: Waiter | None = None, *, newcomer: bool = False) -> bool:
        """Do as `Slots.take`."""
        waiter = waiter or Waiter()
        self._asking.add(waiter)
        try:
            taken = await super().take(waiter, newcomer=newcomer)
        finally:
            self._asking.discard(waiter)
        self._held += taken
        return taken

    def give(self, *, newcomers: bool = True) -> None:
        """Do as `Slots.give`, but for slots that were taken back already."""
        if self._lost:
            self._lost -= 1
            return
        self._held -= 1
        super().give(newcomers=newcomers)

    def take_back(self) -> None:
        """Give back the slots of tasks of a closed loop, and those granted too late for a task to know."""
        for waiter in tuple(self._asking):
            for level in waiter.abandon():
                if level is not self:
                    level._change(1, newcomers=True)
        self._lost, self._held = self._held, 0
        for _ in range(self._lost):
            self._outer.give()
