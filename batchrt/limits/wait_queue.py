"""Those who wait to be let in: in which order, and what wakes them."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final, TypeAlias

from batchrt.errors import ProviderError
from batchrt.limits.permit import Permit
from batchrt.runtime.event_loop import Alarm, LoopHandle

__all__ = ["LoopWaiters", "Turns", "WaitQueue"]

_TOO_EARLY: Final = 0.0005
"""Seconds: event loops are no more exact than a millisecond."""

_FEW: Final = 32

Look = Callable[[float], object]


class LoopWaiters:
    """Those of one event loop who wait.

    Args:
        loop: where they wait.
        offset: what to add to its time for the time that all loops have in common.
        look: to be called with that time, when it is time.
    """

    __slots__ = ("_look", "_offset", "alarm", "loop", "waiting")

    def __init__(self, loop: LoopHandle, offset: float, look: Look) -> None:
        self.loop: LoopHandle = loop
        self.alarm: Alarm = Alarm(self.ring)
        self.waiting: int = 0
        self._offset = offset
        self._look = look

    def now(self) -> float:
        """Return the time that all event loops have in common; on the loop's own thread."""
        return self.loop.time() + self._offset

    def ring(self) -> None:
        """Look who may be let in; on the loop's own thread."""
        if self.waiting:
            self._look(self.now())

    def look_at(self, due: float) -> None:
        """Look at `due`, or before; from any thread."""
        when = due - self._offset
        # An alarm that goes off too early finds out when it is time; to set it anew each time costs more.
        if when < self.alarm.when - _TOO_EARLY:
            if self.loop.here():
                self.alarm.set(when)
            else:
                self.loop.call(self.ring)


class Turns:
    """Queue permits: of each run the first first, and one of each run after the other.

    As long as a single run waits this is a deque.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[object, deque[Permit]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __iter__(self) -> Iterator[Permit]:
        return chain.from_iterable(self._queues.values())

    def __getitem__(self, index: int) -> Permit:
        """Return the next, for 0."""
        assert index == 0
        return next(iter(self._queues.values()))[0]

    def append(self, permit: Permit) -> None:
        """Add `permit` behind those of its run."""
        queue = self._queues.get(permit.run)
        if queue is None:
            queue = self._queues[permit.run] = deque()
        queue.append(permit)

    def appendleft(self, permit: Permit) -> None:
        """Add `permit` before those of its run, whose turn it is then."""
        queue = self._queues.get(permit.run)
        if queue is None:
            queue = self._queues[permit.run] = deque()
        queue.appendleft(permit)
        self._queues.move_to_end(permit.run, last=False)

    def popleft(self) -> Permit:
        """Take the next out; its run's next turn comes after those of the others."""
        run, queue = next(iter(self._queues.items()))
        permit = queue.popleft()
        if not queue:
            del self._queues[run]
        elif len(self._queues) > 1:
            self._queues.move_to_end(run)
        return permit

    def remove(self, permit: Permit) -> None:
        """Take `permit` out."""
        queue = self._queues[permit.run]
        queue.remove(permit)
        if not queue:
            del self._queues[permit.run]

    def clear(self) -> None:
        """Take all out."""
        self._queues.clear()

    def extend(self, permits: Iterable[Permit]) -> None:
        """Add all of `permits`."""
        for permit in permits:
            self.append(permit)


Queue: TypeAlias = "deque[Permit] | Turns"


class WaitQueue:
    """Keep who waits, first come first served; not safe by itself to use from several threads.

    Runs take turns, so that a single request does not wait for all of a batch that came before it.

    Who was sent before goes first. Who has the patience to wait for a provider that is down is parked.

    Args:
        look: is called with the time when somebody may be due.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._first = Turns()
        self._again: deque[Permit] = deque()
        self._parked: deque[Permit] = deque()
        self._desks: dict[object, LoopWaiters] = {}
        self._withdrawn = 0
        self._least_patience = math.inf

    def __len__(self) -> int:
        return sum(not one.withdrawn for one in (*self._again, *self._first, *self._parked))

    def __bool__(self) -> bool:
        if not (self._first or self._again or self._parked):
            return False
        return self._alive(self._again) or self._alive(self._first) or self._alive(self._parked)

    def join(self, permit: Permit, *, parked: bool) -> bool:
        """Add `permit`; return whether it is the first in its row."""
        queue: Queue = self._parked if parked else self._again if permit.again else self._first
        if parked:
            self._least_patience = min(self._least_patience, permit.patience)
        queue.append(permit)
        return queue[0] is permit

    def is_ahead(self, permit: Permit, *, parked: bool) -> bool:
        """Whether nobody waits who would be let in before `permit`."""
        if parked:
            return not self._parked
        return not self._again and (permit.again or not self._first)

    def head(self) -> Permit | None:
        """Return who is to be let in next, if the provider is there."""
        queues: tuple[Queue, ...] = (self._again, self._first)
        return next((queue[0] for queue in queues if self._alive(queue)), None)

    def pop(self) -> Permit:
        """Take `head()` out."""
        return self._again.popleft() if self._again else self._first.popleft()

    def looker(self) -> Permit | None:
        """Return who is to look next whether the provider is back."""
        return self._parked[0] if self._alive(self._parked) else None

    def pop_looker(self) -> Permit:
        """Take `looker()` out."""
        return self._parked.popleft()

    def _queues(self) -> tuple[Queue, ...]:
        return self._again, self._first, self._parked

    def drop_closed(self) -> None:
        """Take out what waits on event loops that have ended: nothing will wait there any more."""
        for token, desk in list(self._desks.items()):
            if not desk.loop.is_open():
                del self._desks[token]
        for queue in self._queues():
            for permit in queue:
                permit.withdrawn = permit.withdrawn or not (permit.loop is None or permit.loop.is_open())

    def _alive(self, queue: Queue) -> bool:
        while queue and queue[0].withdrawn:
            queue.popleft()
        return bool(queue)

    def take_out(self, permit: Permit) -> None:
        """Take `permit` out, wherever it is."""
        for queue in self._queues():
            if permit in queue:
                queue.remove(permit)

    def tidy(self) -> None:
        """Note that one more does not wait any longer; those behind somebody are taken out in time."""
        self._withdrawn += 1
        rows = self._queues()
        if self._withdrawn > _FEW and 2 * self._withdrawn > sum(map(len, rows)):
            self._withdrawn = 0
            for row in rows:
                waiting = [permit for permit in row if not permit.withdrawn]
                row.clear()
                row.extend(waiting)

    def park(self) -> None:
        """Have those who have the patience wait until the provider is back."""
        queues: tuple[Queue, ...] = (self._again, self._first)
        for queue in queues:
            waiting = list(queue)
            queue.clear()
            for permit in waiting:
                if permit.patience > 0:
                    self._least_patience = min(self._least_patience, permit.patience)
                    self._parked.append(permit)
                else:
                    queue.append(permit)

    def unpark(self) -> None:
        """Have them in the line again: the provider is back."""
        while self._parked:
            permit = self._parked.pop()
            queue: Queue = self._again if permit.again else self._first
            queue.appendleft(permit)

    def turn_away(self, why: Callable[[Permit], ProviderError | None]) -> None:
        """Let those go for whom `why` gives a reason."""
        for queue in self._queues():
            self._turn_away(queue, why)

    def turn_away_parked(self, why: Callable[[Permit], ProviderError | None]) -> None:
        """Let those of the parked go for whom `why` gives a reason."""
        self._turn_away(self._parked, why)

    def _turn_away(self, queue: Queue, why: Callable[[Permit], ProviderError | None]) -> None:
        for permit in queue:
            error = None if permit.withdrawn else why(permit)
            if error is not None:
                permit.withdrawn, permit.error = True, error
                if permit.signal is not None:
                    permit.signal.set()

    def least_patience(self) -> float | None:
        """Return the seconds that nobody of the parked waits less than; `None` if there is nobody."""
        if self._alive(self._parked):
            return self._least_patience
        self._least_patience = math.inf
        return None

    # What wakes them

    def desk(self, loop: LoopHandle, offset: float) -> LoopWaiters:
        """Return the desk of an event loop, for one more who waits there; it has to be left."""
        desk = self._desks.get(loop.token)
        if desk is None:
            desk = self._desks[loop.token] = LoopWaiters(loop, offset, self._look)
        desk.waiting += 1
        return desk

    def loops(self) -> list[LoopHandle]:
        """Return the event loops where somebody waits."""
        return [desk.loop for desk in self._desks.values()]

    def leave(self, desk: LoopWaiters) -> None:
        """Note that one less waits at a desk; on its loop's own thread."""
        desk.waiting -= 1
        if not desk.waiting:
            desk.alarm.clear()
            self._desks.pop(desk.loop.token, None)

    def look_at(self, due: float) -> None:
        """Have somebody look at `due`, or before."""
        for desk in self._desks.values():
            desk.look_at(due)

    def rouse(self) -> None:
        """Have somebody look soon."""
        for desk in list(self._desks.values()):
            desk.loop.call(desk.ring)

    def now(self) -> float | None:
        """Return the time, if this is the thread of a loop where somebody waits."""
        return next((desk.now() for desk in self._desks.values() if desk.loop.here()), None)
