"""Request log of the mock: counts, gaps, the newest records, and a way to wait for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

import anyio

from batchrt.testing.faults.plan import Fault
from batchrt.testing.serving.wakeup import Wakeup

__all__ = ["Gaps", "LogRecord", "LogSnapshot", "RequestLog"]


class LogRecord(NamedTuple):
    """One request that is over.

    Attributes:
        time: its arrival, in seconds since the first request.
        route: method and path; "other" for unknown paths.
        status: the status of the answer; None without one.
        fault: the fault that it met, or None.
        seconds: from its arrival until the answer's last byte was handed to the server.
        attempt: how often this body had come, this time included.
        digest: 64 bits of the hash of path and body, the same for each attempt.
        gone: whether the client disconnected before the answer.
        items: the number of its inputs (texts, prompts, conversations); 0 where none could be read, and for
            requests that are not for a model.
    """

    time: float
    route: str
    status: int | None
    fault: Fault | None
    seconds: float
    attempt: int
    digest: int
    gone: bool
    items: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        fault = self.fault and self.fault.value
        return {**self._asdict(), "fault": fault, "digest": f"{self.digest:016x}"}


@dataclass(frozen=True, slots=True)
class Gaps:
    """Statistics of the seconds between one arrival and the next."""

    min: float
    mean: float
    max: float


@dataclass(frozen=True, slots=True)
class LogSnapshot:
    """Immutable state of the log at one moment.

    Attributes:
        requests: arrivals, those still in flight included.
        in_flight: requests without an answer so far; survives a reset.
        peak_in_flight: the most at once.
        disconnects: clients that disconnected before their answer.
        by_status: the number of answers with each status.
        by_route: the same, for each route.
        by_fault: the number of requests that met each fault.
        gaps: None before the second arrival.
        items: inputs that arrived, with those of refused requests.
        items_in_flight: inputs without an answer so far; survives a reset.
        most_items: the most in one request.
    """

    requests: int
    in_flight: int
    peak_in_flight: int
    disconnects: int
    by_status: Mapping[int, int]
    by_route: Mapping[str, Mapping[int, int]]
    by_fault: Mapping[Fault, int]
    gaps: Gaps | None
    items: int = 0
    items_in_flight: int = 0
    most_items: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as JSON types: keys are strings."""
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "by_status": _named(self.by_status),
            "by_route": {route: _named(counts) for route, counts in self.by_route.items()},
            "by_fault": {fault.value: count for fault, count in self.by_fault.items()},
            "gaps": self.gaps and asdict(self.gaps),
        }


def _named(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(status): count for status, count in counts.items()}


class RequestLog:
    """Count all requests and keep the newest `keep` records; safe to use from any thread.

    Times come from the event loop that serves the request, so gaps are meaningful within one loop; call
    `reset` between two.
    """

    def __init__(self, keep: int = 10_000) -> None:
        self._lock = threading.Lock()
        self._records: deque[LogRecord] = deque(maxlen=keep)
        self._waiters: set[Wakeup] = set()
        self._in_flight = 0
        self._items_in_flight = 0
        self._forget()

    def _forget(self) -> None:
        self._records.clear()
        self._requests = 0
        self._items = self._most_items = 0
        self._peak = self._in_flight
        self._disconnects = 0
        self._by_route: dict[str, dict[int, int]] = {}
        self._by_fault: dict[Fault, int] = {}
        self._first = self._last = 0.0
        self._shortest, self._longest = float("inf"), 0.0

    def arrived(self, now: float, items: int = 0) -> None:
        """Record that a request with so many `items` arrived at `now` seconds of its event loop."""
        with self._lock:
            if self._requests:
                gap = max(0.0, now - self._last)
                self._shortest = min(self._shortest, gap)
                self._longest = max(self._longest, gap)
            else:
                self._first = now
            self._last = now
            self._requests += 1
            self._in_flight += 1
            self._items += items
            self._items_in_flight += items
            self._most_items = max(self._most_items, items)
            self._peak = max(self._peak, self._in_flight)
        self._notify()

    def finished(self, record: LogRecord) -> None:
        """Record how a request ended; its `time` is still that of the event loop."""
        with self._lock:
            self._in_flight -= 1
            self._items_in_flight -= record.items
            self._disconnects += record.gone
            if record.status is not None:
                counts = self._by_route.setdefault(record.route, {})
                counts[record.status] = counts.get(record.status, 0) + 1
            if record.fault is not None:
                self._by_fault[record.fault] = self._by_fault.get(record.fault, 0) + 1
            self._records.append(record._replace(time=max(0.0, record.time - self._first)))
        self._notify()

    def reset(self) -> None:
        """Forget everything except the requests still in flight."""
        with self._lock:
            self._forget()
        self._notify()

    def snapshot(self) -> LogSnapshot:
        """Return the counts of this moment."""
        with self._lock:
            by_status: dict[int, int] = {}
            for counts in self._by_route.values():
                for status, count in counts.items():
                    by_status[status] = by_status.get(status, 0) + count
            return LogSnapshot(
                requests=self._requests,
                in_flight=self._in_flight,
                peak_in_flight=self._peak,
                disconnects=self._disconnects,
                by_status=MappingProxyType(dict(sorted(by_status.items()))),
                by_route=MappingProxyType({r: MappingProxyType(c.copy()) for r, c in self._by_route.items()}),
                by_fault=MappingProxyType(self._by_fault.copy()),
                gaps=self._gaps(),
                items=self._items,
                items_in_flight=self._items_in_flight,
                most_items=self._most_items,
            )

    def _gaps(self) -> Gaps | None:
        if self._requests < 2:  # noqa: PLR2004 a gap is between two
            return None
        mean = max(0.0, self._last - self._first) / (self._requests - 1)
        return Gaps(min=self._shortest, mean=mean, max=self._longest)

    def records(self, newest: int | None = None) -> tuple[LogRecord, ...]:
        """Return the records of finished requests, oldest first, or only the `newest` of them."""
        with self._lock:
            skip = 0 if newest is None else max(0, len(self._records) - newest)
            return tuple(islice(self._records, skip, None))

    async def wait_for(self, predicate: Callable[[LogSnapshot], bool]) -> LogSnapshot:
        """Wait until `predicate` holds for a snapshot, and return that one.

        Checked at each change, without polling; works on any event loop, also while the provider is served
        from another thread. Bound it with `anyio.fail_after`.
        """
        while True:
            event = anyio.Event()
            waiter = Wakeup(event.set)
            # Registered before the check, or a change between the two would be missed.
            with self._lock:
                self._waiters.add(waiter)
            try:
                snapshot = self.snapshot()
                if predicate(snapshot):
                    return snapshot
                await event.wait()
            finally:
                with self._lock:
                    self._waiters.discard(waiter)

    def _notify(self) -> None:
        if not self._waiters:
            return
        with self._lock:
            waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter()
