"""The wait queue: permits that wait for a quota, in which order, and the timers that wake them."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final, TypeAlias

from batchrt.errors import ProviderError
from batchrt.limits.permit import Permit, Waiting
from batchrt.runtime.event_loop import Alarm, LoopHandle

__all__ = ["FairQueue", "LoopWaiters", "WaitQueue"]

_TOO_EARLY: Final = 0.0005
"""Seconds: event loops are no more exact than a millisecond."""

_FEW: Final = 32
"""Withdrawn permits that are left in the queue."""

Wake: TypeAlias = "Callable[[float], object]"


class LoopWaiters:
    """Count the permits that wait on one event loop, and hold the loop's timer.

    Args:
        loop: the event loop.
        offset: added to its time gives the time that all loops have in common (seconds).
        wake: called with the common time when a permit may be due.
    """

    __slots__ = ("_offset", "_wake", "alarm", "loop", "waiting")

    def __init__(self, loop: LoopHandle, offset: float, wake: Wake) -> None:
        self.loop: LoopHandle = loop
        self.alarm: Alarm = Alarm(self.ring)
        self.waiting: int = 0
        self._offset = offset
        self._wake = wake

    def now(self) -> float:
        """Return the time that all event loops have in common; on the loop's own thread."""
        return self.loop.time() + self._offset

    def ring(self) -> None:
        """Let the quota grant permits; on the loop's own thread."""
        if self.waiting:
            self._wake(self.now())

    def wake_at(self, due: float) -> None:
        """Ring at `due`, or before; from any thread."""
        when = due - self._offset
        # An alarm that rings too early finds out when it is due; resetting it each time costs more.
        if when < self.alarm.when - _TOO_EARLY:
            if self.loop.here():
                self.alarm.set(when)
            else:
                self.loop.call(self.ring)


class FairQueue:
    """Queue permits first in, first out within each run, and round-robin between runs.

    With a single run it behaves as a deque.

    Attributes:
        queues: the permits of each run, in the order of the runs' turns; a run without permits has none.
    """

    def __init__(self) -> None:
        self.queues: OrderedDict[object, deque[Permit]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self.queues.values()))

    def __bool__(self) -> bool:
        return bool(self.queues)

    def __iter__(self) -> Iterator[Permit]:
        return chain.from_iterable(self.queues.values())

    def __getitem__(self, index: int) -> Permit:
        """Return the next, for 0."""
        assert index == 0
        return next(iter(self.queues.values()))[0]

    def append(self, permit: Permit) -> None:
        """Add `permit` behind those of its run."""
        queue = self.queues.get(permit.run)
        if queue is None:
            queue = self.queues[permit.run] = deque()
        queue.append(permit)

    def appendleft(self, permit: Permit) -> None:
        """Add `permit` before those of its run, whose turn is next."""
        queue = self.queues.get(permit.run)
        if queue is None:
            queue = self.queues[permit.run] = deque()
        queue.appendleft(permit)
        self.queues.move_to_end(permit.run, last=False)

    def popleft(self) -> Permit:
        """Remove the next permit; its run's next turn comes after those of the others."""
        run, queue = next(iter(self.queues.items()))
        permit = queue.popleft()
        if not queue:
            del self.queues[run]
        elif len(self.queues) > 1:
            self.queues.move_to_end(run)
        return permit

    def remove(self, permit: Permit) -> None:
        """Remove `permit`."""
        queue = self.queues[permit.run]
        queue.remove(permit)
        if not queue:
            del self.queues[permit.run]

    def clear(self) -> None:
        """Remove all permits."""
        self.queues.clear()

    def extend(self, permits: Iterable[Permit]) -> None:
        """Add all of `permits`."""
        for permit in permits:
            self.append(permit)


Queue: TypeAlias = "deque[Permit] | FairQueue"


class WaitQueue:
    """Order the permits that wait; not thread-safe: the quota's lock guards it.

    There are three queues. Retries go first, then first attempts, each first in, first out; runs take turns
    at first attempts (fair queuing), so that a single request does not wait for a batch that came before
    it. Permits with the patience to wait for a provider that is down are parked, and granted one at a time as
    half-open probes.

    Invariants: a permit is in at most one queue. One that was withdrawn stays where it is until it comes
    to the head, or until withdrawn permits are more than half of all: removal costs O(1) on average.

    Args:
        wake: called with the time when a permit may be due.
    """

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._first = FairQueue()
        self._again: deque[Permit] = deque()
        self._parked: deque[Permit] = deque()
        self._loops: dict[object, LoopWaiters] = {}
        self._withdrawn = 0
        self._least_patience = math.inf

    def __len__(self) -> int:
        return sum(not permit.withdrawn for permit in (*self._again, *self._first, *self._parked))

    def __bool__(self) -> bool:
        # Not the truth of `_first` itself, which is a call: each request looks here twice.
        if not (self._first.queues or self._again or self._parked):
            return False
        return self._alive(self._again) or self._alive(self._first) or self._alive(self._parked)

    def join(self, permit: Permit, *, parked: bool) -> bool:
        """Add `permit`; return whether it is the first in its queue."""
        queue: Queue = self._parked if parked else self._again if permit.again else self._first
        if parked:
            self._least_patience = min(self._least_patience, permit.patience)
        queue.append(permit)
        return queue[0] is permit

    def is_ahead(self, permit: Permit, *, parked: bool) -> bool:
        """Whether no waiting permit is to be granted before `permit`."""
        if parked:
            return not self._parked
        return not self._again and (permit.again or not self._first.queues)

    def head(self) -> Permit | None:
        """Return the next permit to grant, assuming the provider is up."""
        queues: tuple[Queue, ...] = (self._again, self._first)
        return next((queue[0] for queue in queues if self._alive(queue)), None)

    def pop(self) -> Permit:
        """Remove `head()`."""
        return self._again.popleft() if self._again else self._first.popleft()

    def waiting(self, expect: Callable[[Permit], object]) -> Waiting:
        """Return how much waits to be sent, assuming the provider is up; `expect` estimates tokens."""
        head = self.head()
        if head is None:
            return Waiting()
        permits = [permit for permit in chain(self._again, self._first) if not permit.withdrawn]
        for permit in permits:
            expect(permit)
        return Waiting(len(permits), sum(map(_most, permits)), _most(head))

    def next_probe(self) -> Permit | None:
        """Return the permit to grant as the next half-open probe."""
        return self._parked[0] if self._alive(self._parked) else None

    def pop_probe(self) -> Permit:
        """Remove `next_probe()`."""
        return self._parked.popleft()

    def _queues(self) -> tuple[Queue, ...]:
        return self._again, self._first, self._parked

    def drop_closed(self) -> None:
        """Withdraw the permits of event loops that were closed."""
        for token, waiters in list(self._loops.items()):
            if not waiters.loop.is_open():
                del self._loops[token]
        for queue in self._queues():
            for permit in queue:
                permit.withdrawn = permit.withdrawn or not (permit.loop is None or permit.loop.is_open())

    def _alive(self, queue: Queue) -> bool:
        while queue and queue[0].withdrawn:
            queue.popleft()
        return bool(queue)

    def take_out(self, permit: Permit) -> None:
        """Remove `permit` from its queue."""
        for queue in self._queues():
            if permit in queue:
                queue.remove(permit)

    def note_withdrawn(self) -> None:
        """Count a withdrawn permit; once they are many, remove them all."""
        self._withdrawn += 1
        queues = self._queues()
        if self._withdrawn > _FEW and 2 * self._withdrawn > sum(map(len, queues)):
            self._withdrawn = 0
            for queue in queues:
                waiting = [permit for permit in queue if not permit.withdrawn]
                queue.clear()
                queue.extend(waiting)

    def park(self) -> None:
        """Park the permits that have patience, until the provider is up again."""
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
        """Return parked permits to the front of their queues."""
        while self._parked:
            permit = self._parked.pop()
            queue: Queue = self._again if permit.again else self._first
            queue.appendleft(permit)

    def reject(self, why: Callable[[Permit], ProviderError | None]) -> None:
        """Reject the permits for which `why` returns an error."""
        for queue in self._queues():
            _reject(queue, why)

    def reject_parked(self, why: Callable[[Permit], ProviderError | None]) -> None:
        """Reject the parked permits for which `why` returns an error."""
        _reject(self._parked, why)

    def least_patience(self) -> float | None:
        """Return a lower bound of the parked permits' patience in seconds; `None` if none is parked."""
        if self._alive(self._parked):
            return self._least_patience
        self._least_patience = math.inf
        return None

    # Timers

    def waiters_on(self, loop: LoopHandle, offset: float) -> LoopWaiters:
        """Return the waiters of an event loop, one more than before; `leave` counts it out."""
        waiters = self._loops.get(loop.token)
        if waiters is None:
            waiters = self._loops[loop.token] = LoopWaiters(loop, offset, self._wake)
        waiters.waiting += 1
        return waiters

    def loops(self) -> list[LoopHandle]:
        """Return the event loops on which permits wait."""
        return [waiters.loop for waiters in self._loops.values()]

    def leave(self, waiters: LoopWaiters) -> None:
        """Count out one waiter of an event loop; on the loop's own thread."""
        waiters.waiting -= 1
        if not waiters.waiting:
            waiters.alarm.clear()
            self._loops.pop(waiters.loop.token, None)

    def wake_at(self, due: float) -> None:
        """Call `wake` at `due`, or before."""
        for waiters in self._loops.values():
            waiters.wake_at(due)

    def wake_soon(self) -> None:
        """Call `wake` soon, on each event loop on which permits wait."""
        for waiters in list(self._loops.values()):
            waiters.loop.call(waiters.ring)

    def now(self) -> float | None:
        """Return the common time, if this is the thread of an event loop on which permits wait."""
        return next((waiters.now() for waiters in self._loops.values() if waiters.loop.here()), None)


def _most(permit: Permit) -> float:
    """Return the tokens that a request may cost, as providers count them beforehand."""
    return permit.input + (permit.output if permit.most is None else permit.most)


def _reject(queue: Queue, why: Callable[[Permit], ProviderError | None]) -> None:
    for permit in queue:
        error = None if permit.withdrawn else why(permit)
        if error is not None:
            permit.reject(error)
