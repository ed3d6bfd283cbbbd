"""Deadlines of exchanges: one alarm for all exchanges of a client on an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from batchrt.runtime.event_loop import Alarm

__all__ = ["Deadline", "Deadlines"]


class Cancellable(Protocol):
    """A connection, or the cancel scope in which one is made."""

    def cancel(self) -> object:
        """End it, and the wait for it."""


class Deadline:
    """The end of the time of one exchange.

    Attributes:
        expired: it has come.
    """

    __slots__ = ("_target", "expired", "when")

    def __init__(self, when: float) -> None:
        self.when: float = when
        self.expired: bool = False
        self._target: Cancellable | None = None

    def bind(self, target: Cancellable) -> None:
        """Cancel `target` when the deadline comes, in place of an earlier one."""
        self._target = target
        if self.expired:
            target.cancel()

    def expire(self) -> None:
        """Cancel the target."""
        self.expired = True
        if self._target is not None:
            self._target.cancel()


class Deadlines:
    """Give exchanges the same number of seconds each.

    As the number is the same, deadlines come in the order in which they began, and a dict, which keeps that
    order, stands in for a heap of timers: an exchange that ends in time costs two operations on it, and no
    timer. (The timing wheels of Varghese and Lauck, 1987, with one slot.)
    """

    __slots__ = ("_alarm", "_closing", "_pending", "_seconds", "_time")

    def __init__(self, seconds: float, time: Callable[[], float]) -> None:
        self._seconds = seconds
        self._time = time
        self._pending: dict[Deadline, None] = {}
        self._alarm = Alarm(self._expire)
        self._closing = False

    def begin(self) -> Deadline:
        """Return the deadline of an exchange that begins now."""
        deadline = Deadline(self._time() + self._seconds)
        self._pending[deadline] = None
        if len(self._pending) == 1:
            self._alarm.set(min(self._alarm.when, deadline.when))
        return deadline

    def end(self, deadline: Deadline) -> None:
        """Forget the deadline of an exchange that has ended."""
        self._pending.pop(deadline, None)
        if self._closing and not self._pending:
            self._alarm.clear()

    def close(self) -> None:
        """Keep no alarm when the exchanges in flight have ended: it would outlive the client by minutes."""
        self._closing = True
        if not self._pending:
            self._alarm.clear()

    def clear(self) -> None:
        """Let no further deadline come."""
        self._pending.clear()
        self._alarm.clear()

    def _expire(self) -> None:
        now = self._time()
        expired: list[Deadline] = []
        for deadline in self._pending:
            if deadline.when > now:
                self._alarm.set(deadline.when)
                break
            expired.append(deadline)
        for deadline in expired:
            del self._pending[deadline]
        for deadline in expired:
            deadline.expire()
