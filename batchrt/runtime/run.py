"""A run: the state that the strands of one call of a batch method share.

A call nested inside a leaf is a run too, under the same slots.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Final

from anyio import CancelScope, CapacityLimiter

from batchrt.runtime.arrivals import Admission, Arrivals
from batchrt.runtime.blocked_loops import Blockades, current_blockades
from batchrt.runtime.clock import Clock, common_offset
from batchrt.runtime.event_loop import LoopHandle, Signal
from batchrt.runtime.run_counts import RunCounts
from batchrt.runtime.slots import Slots
from batchrt.runtime.spending import Payer
from batchrt.runtime.task_pool import TaskPool

if TYPE_CHECKING:
    from batchrt.runtime.observers import RunObserver
    from batchrt.runtime.strand import Strand

__all__ = ["Run"]

UNCAPPED_THREADS: Final = 64
"""Threads for sync functions when `max_concurrency` is `None`. No cap on leaves is no wish for a
thousand threads; a number asks for them."""


class Run:
    """Hold the state that the strands of a run share.

    Attributes:
        slots: the run's right to run leaves.
        task_pool: helper tasks for forks; `None` for a run of a single item, which makes its own.
        above: the strand whose leaf the run is nested in, if any.
        direct: the run is driven without an event loop, in its caller's thread.
        loop: the event loop it runs on; `None` if direct.
        process: the one it runs in; a fork of it is no part of the run.
        threads: bounds the threads of sync functions where `slots` do not.
        arrivals: counts its strands on the way; shared with the run this is nested in.
        source: its scheduler; `None` for a run of a single item.
        spending: keeps it within its limits, and those of the run this is nested in; `None` for none.
        blockades: the sync calls that it works for, which block event loops meanwhile.
        counts: its repeated attempts and its lists.
        held: how many of its strands are throttled, as by a provider's quota.
        live: the open strands of the run and of those nested in it on its loop, if it can be stopped
            gracefully; else `None`.
        calls: how many calls from its strands' threads are under way on its loop.
        observer: follows it, or the run that it is nested in; `None` if it is not observed.
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
        "counts",
        "direct",
        "held",
        "live",
        "loop",
        "observer",
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
        self.counts: RunCounts = RunCounts(parent.counts if parent else None)
        self.source: Admission | None = None
        self.spending: Payer | None = parent.spending if parent else None
        self.blockades: Blockades = current_blockades()
        self.held: int = 0
        self.calls: int = 0
        self.observer: RunObserver | None = parent.observer if parent else None
        self.live: set[Strand] | None = None
        self._vacated: Signal | None = None
        self._offset: float | None = None
        near = parent if parent is not None and self._same_loop(parent) else None
        # A limiter belongs to its loop, and so do the tasks of a task_pool.
        self.threads: CapacityLimiter | None = near.threads if near else _limiter(slots, direct=direct)
        self.arrivals: Arrivals = near.arrivals if near and near.arrivals.task_pool else Arrivals()
        if near is not None:
            self.live = near.live
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
        """The difference between its loop's time and the time that all loops have in common."""
        if self._offset is None:
            self._offset = common_offset()
        return self._offset

    def now(self) -> float:
        """Return the time that all event loops have in common."""
        loop, offset = self.loop, self._offset
        assert loop is not None
        return loop.time() + (self.offset if offset is None else offset)

    def hire(self, task_pool: TaskPool) -> None:
        """Have helper tasks for forks and for lists."""
        self.task_pool = task_pool
        if self.arrivals.task_pool is None:
            self.arrivals.task_pool = task_pool

    def enter(self, observer: RunObserver) -> None:
        """Have `observer` prepare the context of the lists that this run's items may be sent in."""
        if self._nested_in is None or self.arrivals is not self._nested_in.arrivals:
            observer.enter(self.arrivals.base)

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
            # The key is kept, so that no other object gets its id.
            known = self._sections[id(key), outer] = (key, slots)
        return known[1]


def _limiter(slots: Slots, *, direct: bool) -> CapacityLimiter | None:
    if direct:
        return None
    return CapacityLimiter(UNCAPPED_THREADS if slots.limit is None else math.inf)
