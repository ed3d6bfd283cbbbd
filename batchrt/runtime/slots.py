"""Promise 1: no more leaf calls at once than there are slots.

A slot is held by a strand (see `run.py`) while it does work of its own, and by nobody who waits: not by
a retry that sleeps, not by a leaf that waits for work nested inside it. Nobody ever waits for a slot
while holding one of the same `Slots`, so there is nothing to deadlock on, at any nesting and at cap 1.
"""

from __future__ import annotations

import math
import threading
from collections import deque

from batchrt.runtime.loops import Signal

__all__ = ["Slots", "Waiter"]


class Waiter:
    """Wait for one slot; made on the event loop that waits, granted from any thread."""

    __slots__ = ("at", "granted", "signal", "withdrawn")

    def __init__(self) -> None:
        self.signal: Signal = Signal()
        self.granted: bool = False
        self.withdrawn: bool = False
        self.at: Slots | None = None

    def withdraw(self) -> bool:
        """Stop waiting, wherever it is; `False` if it has its slot already."""
        if self.at is None:
            self.withdrawn = True
            return True
        return self.at.withdraw(self)


class Slots:
    """Count out `total` slots, first come first served; `None` is without end.

    Strands that are under way are served before newcomers (`newcomer=True`), so that what was started
    is finished first. With a `parent`, a slot here is also a slot there. `adaptive` says that requests
    under it are as many at once as their provider's quota finds best. All methods may be called
    from any thread: leaves run in threads, and a function may start an event loop of its own.
    """

    __slots__ = ("_free", "_lock", "_newcomers", "_parent", "_waiters", "adaptive", "total")

    def __init__(
        self, total: int | None, parent: Slots | None = None, *, adaptive: bool | None = None
    ) -> None:
        self.total: int | None = total
        above = parent is not None and parent.adaptive
        self.adaptive: bool = above if adaptive is None else adaptive
        self._free: float = math.inf if total is None else total
        self._parent = parent
        self._lock = threading.Lock()
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

    def wanted(self) -> bool:
        """Whether a strand that is under way waits for a slot."""
        if self._waiters:
            return True
        return self._parent is not None and self._parent.wanted()

    def try_take(self) -> bool:
        """Take a slot if one is free and nobody was here before."""
        with self._lock:
            if self._free <= 0 or self._waiters:
                return False
            self._free -= 1
        if self._parent is not None and not self._parent.try_take():
            self._give_own()
            return False
        return True

    def take_now(self) -> None:
        """Take a slot even if there is none: no new leaf starts until the debt is paid.

        For a leaf that was cancelled while its nested work ran: it has to unwind, now.
        """
        with self._lock:
            self._free -= 1
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
        try:
            granted = await self._parent.take(waiter)
        finally:
            if not granted:
                self._give_own()
        return granted

    async def _take_own(self, waiter: Waiter, *, newcomer: bool) -> bool:
        with self._lock:
            if waiter.withdrawn:
                return False
            waiter.at = self
            waiter.granted = self._free > 0 and not self._waiters
            if waiter.granted:
                self._free -= 1
                return True
            waiter.signal = Signal()
            (self._newcomers if newcomer else self._waiters).append(waiter)
        try:
            await waiter.signal.wait()
        except BaseException:
            if not self.withdraw(waiter):
                self._give_own()
            raise
        return waiter.granted

    def withdraw(self, waiter: Waiter) -> bool:
        """Take `waiter` out of the queue and wake it; `False` if it had its slot already."""
        with self._lock:
            if waiter.granted:
                return False
            waiter.withdrawn = True
        waiter.signal.set()
        return True

    def give(self, *, newcomers: bool = True) -> None:
        """Give a slot back, to whoever waits longest; without `newcomers`, not to one of those.

        A leaf that lends its slot to nested work means it for that work, which asks for it at once.
        """
        # The outer slot first: whoever is woken here goes on to ask for one there.
        if self._parent is not None:
            self._parent.give(newcomers=newcomers)
        self._give_own(newcomers=newcomers)

    def offer(self) -> None:
        """Let newcomers have what is free."""
        with self._lock:
            waiter = self._grant_next(self._newcomers)
        if waiter is not None:
            waiter.signal.set()
        if self._parent is not None:
            self._parent.offer()

    def _give_own(self, *, newcomers: bool = True) -> None:
        with self._lock:
            self._free += 1
            waiter = self._grant_next(self._waiters)
            if waiter is None and newcomers:
                waiter = self._grant_next(self._newcomers)
        if waiter is not None:
            waiter.signal.set()

    def _grant_next(self, *queues: deque[Waiter]) -> Waiter | None:
        for queue in queues:
            while queue and self._free > 0:
                waiter = queue.popleft()
                if not waiter.withdrawn:
                    waiter.granted = True
                    self._free -= 1
                    return waiter
        return None
