"""Deadlines of exchanges: one alarm for all exchanges of a client on an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from batchrt.runtime.event_loop import Alarm

__all__ = ["Deadlines"]


class Expiring(Protocol):
    """An exchange with a deadline.

    Attributes:
        deadline: on the clock of the loop.
    """

    deadline: float

    def expire(self) -> None:
        """End the exchange at its deadline."""


class Deadlines:
    """Give exchanges the same number of seconds each.

    As the number is the same, deadlines come in the order in which they began, and a dict, which keeps that
    order, stands in for a heap of timers: an exchange that ends in time costs two operations on it, and no
    timer. (The timing wheels of Varghese and Lauck, 1987, with one slot.)

    Args:
        seconds: from the beginning of an exchange to its deadline.
        time: returns the loop's time.
    """

    __slots__ = ("_alarm", "_closing", "_pending", "_seconds", "_time")

    def __init__(self, seconds: float, time: Callable[[], float]) -> None:
        self._seconds = seconds
        self._time = time
        self._pending: dict[Expiring, None] = {}
        self._alarm = Alarm(self._expire)
        self._closing = False

    def begin(self, exchange: Expiring, now: float) -> None:
        """Set the deadline of an exchange that begins now."""
        exchange.deadline = when = now + self._seconds
        self._pending[exchange] = None
        if when < self._alarm.when:
            self._alarm.set(when)

    def end(self, exchange: Expiring) -> None:
        """Forget an exchange that has ended."""
        self._pending.pop(exchange, None)
        if self._closing and not self._pending:
            self._alarm.clear()

    def close(self) -> None:
        """Keep no alarm when the exchanges in flight have ended: it would outlive the client by minutes."""
        self._closing = True
        if not self._pending:
            self._alarm.clear()

    def clear(self) -> None:
        """Disable all further deadlines."""
        self._pending.clear()
        self._alarm.clear()

    def _expire(self) -> None:
        now = self._time()
        expired: list[Expiring] = []
        for exchange in self._pending:
            if exchange.deadline > now:
                self._alarm.set(exchange.deadline)
                break
            expired.append(exchange)
        for exchange in expired:
            del self._pending[exchange]
        for exchange in expired:
            exchange.expire()
