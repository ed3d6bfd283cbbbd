"""Queue of a server that processes a limited number of requests at a time."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import anyio

from batchrt.testing.admission.rate_limits import LimitStyle, check_style
from batchrt.testing.admission.schedules import Schedule, Scripted, check_scripted
from batchrt.testing.admission.timeline import Timeline
from batchrt.testing.serving.wakeup import Wakeup

__all__ = ["MockQueue", "QueueEntry", "Queueing"]

_AFTER_CHANGE = 1e-6  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Queueing:
    """Process `capacity` requests at a time, first come, first served, as vLLM and llama-server do.

    The others wait, and only their latency shows it. A request whose turn has come takes the provider's
    latency (`latency`, `latency_per_input`), and frees its place with the last byte, or when its client
    disconnects.

    Args:
        capacity: a whole number, or steps `(second, number)`. Where it falls, requests in progress are
            finished.
        max_waiting: how many may wait; further ones are refused. None: no bound; 0: the server refuses a
            request that it cannot process at once.
        seconds_per_token: added to the latency for each token of an answer.
        full_status: the status of a refusal; None for the family's own when it is too busy: 429 for "tei" and
            "infinity", 503 for the others.
        retry_after: the seconds that a refusal asks to wait in `retry-after`, rounded up; None for none.
        style: the vendor whose wording a refusal has: "nginx" is a page of HTML, of its `limit_conn` with
            `capacity=n, max_waiting=0`. None for the server's family.
        counts: the unit of `capacity`: requests, or their inputs, as in Infinity's queue (64 texts with
            `max_waiting=64`). A request of many inputs is admitted while there is room for one, and processed
            when all of them have a place, or alone.
    """

    capacity: Scripted
    max_waiting: int | None = None
    seconds_per_token: float = 0.0
    full_status: Literal[429, 503] | None = None
    retry_after: float | None = None
    style: LimitStyle | None = None
    counts: Literal["requests", "inputs"] = "requests"

    def __post_init__(self) -> None:
        object.__setattr__(self, "capacity", check_scripted("capacity", self.capacity, whole=True))
        if self.max_waiting is not None and self.max_waiting < 0:
            raise ValueError(f"max_waiting must not be negative, got {self.max_waiting}")
        if not 0 <= self.seconds_per_token < math.inf:
            raise ValueError(f"seconds_per_token must be seconds >= 0, not {self.seconds_per_token!r}")
        if self.full_status not in (None, 429, 503):
            raise ValueError(f"full_status must be 429, 503 or None, not {self.full_status!r}")
        if self.retry_after is not None and not 0 < self.retry_after < math.inf:
            raise ValueError(f"retry_after must be seconds > 0, not {self.retry_after!r}")
        check_style(self.style)
        if self.counts not in ("requests", "inputs"):
            raise ValueError(f"counts must be requests or inputs, not {self.counts!r}")


class QueueEntry:
    """One request in the queue; `started`, at `began`, once its turn has come."""

    __slots__ = ("_queue", "began", "size", "started", "wakeup")

    def __init__(self, queue: MockQueue, size: int) -> None:
        self._queue = queue
        self.size: int = size
        self.started: bool = False
        self.began: float = math.inf
        self.wakeup: Wakeup | None = None

    async def wait_turn(self, otherwise: Callable[[], Awaitable[object]]) -> bool:
        """Wait for the turn or until `otherwise` ends; return whether `otherwise` ended first.

        `otherwise` is cancelled when the turn comes, and called anew when the capacity changes.
        """
        while not self.started:
            with anyio.CancelScope(deadline=self._queue.next_change()) as scope:
                if self._queue.register(self, Wakeup(scope.cancel)):
                    await otherwise()
                    return True
            self._queue.admit_waiting(anyio.current_time())
        return False


class MockQueue:
    """Start requests in the order of their arrival, as far as the capacity allows.

    Safe to use from any thread: state changes under `lock`, which is reentrant.
    """

    def __init__(self, queueing: Queueing, timeline: Timeline, lock: AbstractContextManager[object]) -> None:
        self._capacity = Schedule(queueing.capacity)
        self._max_waiting = queueing.max_waiting
        self._timeline = timeline
        self._lock = lock
        self._counts_inputs = queueing.counts == "inputs"
        self._served = 0
        self._queued = 0
        # A dict scans all removed entries to find its first one; OrderedDict does not.
        self._waiting: OrderedDict[QueueEntry, None] = OrderedDict()

    def is_full(self, now: float) -> bool:
        """Return whether a request that arrives now is refused."""
        with self._lock:
            self.admit_waiting(now)
            full = self._max_waiting is not None and self._queued >= self._max_waiting
            return full and not self._is_free(1, now)

    def join(self, now: float, items: int = 1) -> QueueEntry:
        """Add a request of so many `items` that arrives."""
        with self._lock:
            entry = QueueEntry(self, max(1, items) if self._counts_inputs else 1)
            self._waiting[entry] = None
            self._queued += entry.size
            self.admit_waiting(now)
            return entry

    def leave(self, entry: QueueEntry, now: float) -> None:
        """Remove a request that is over, whether or not its turn had come."""
        with self._lock:
            if entry.started:
                self._served -= entry.size
            else:
                del self._waiting[entry]
                self._queued -= entry.size
            self.admit_waiting(now)

    def admit_waiting(self, now: float) -> None:
        """Start the requests for which there is capacity."""
        with self._lock:
            while self._waiting and self._is_free(next(iter(self._waiting)).size, now):
                entry, _ = self._waiting.popitem(last=False)
                self._queued -= entry.size
                self._served += entry.size
                entry.started, entry.began = True, now
                if entry.wakeup is not None:
                    entry.wakeup()

    def register(self, entry: QueueEntry, wakeup: Wakeup) -> bool:
        """Have `wakeup` called when the turn of `entry` comes; False if it has come already."""
        with self._lock:
            entry.wakeup = wakeup
            return not entry.started

    def next_change(self) -> float:
        """Return the event loop's time of the next change of capacity."""
        second = self._timeline.second(anyio.current_time())
        # A little later: at the exact second, a clock that does not advance would wait for it for ever.
        return self._timeline.moment(self._capacity.change_after(second) + _AFTER_CHANGE)

    def _is_free(self, size: int, now: float) -> bool:
        if not self._served:
            return True
        return self._served + size <= self._capacity.at(self._timeline.second(now))
