"""A leased rate: the slots of one rate limit that this worker may use, and when."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from batchrt.limits.shared.lease_messages import Slots

__all__ = ["LeasedRate"]

_NEARLY = 1e-6
"""The rounding error of sums of floats."""


class _Part:
    """Slots that are left of a grant, on the worker's clock."""

    __slots__ = ("amount", "expires", "start")

    def __init__(self, start: float, amount: float, expires: float) -> None:
        self.start = start
        self.amount = amount
        self.expires = expires


class LeasedRate:
    """Keep to granted slots: at their time or somewhat later, and each once.

    Invariant: the amount charged by any time is at most the amount of slots that had begun by then, debts
    aside. A debt, of a request that took more than was expected, is paid out of the next slots.

    Args:
        rate: of the whole limit, per second.
        valid: seconds for which a slot may be used late.

    Attributes:
        held: the amount of the slots.
        debt: the amount that was charged beyond them.
        wasted: the amount that expired unused since it was last looked at.
    """

    __slots__ = ("_parts", "debt", "held", "rate", "valid", "wasted")

    def __init__(self, rate: float, valid: float) -> None:
        self.rate: float = rate
        self.valid: float = valid
        self.held: float = 0.0
        self.debt: float = 0.0
        self.wasted: float = 0.0
        self._parts: deque[_Part] = deque()

    def add(self, slots: Iterable[Slots], sent_at: float, now: float) -> None:
        """Add granted slots, whose times count from a moment between the request's sending and `now`."""
        for start, amount in slots:
            expires = max(sent_at, sent_at + start + amount / self.rate) + self.valid
            self._parts.append(_Part(now + start, amount, expires))
            self.held += amount

    def advance(self, now: float) -> None:
        """Drop slots that have expired."""
        parts = self._parts
        while parts and parts[0].expires <= now:
            self.wasted += parts[0].amount
            self.held -= parts.popleft().amount
        if not parts:
            self.held = 0.0

    def wait_for(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` fits; infinity if it takes more slots."""
        self.advance(now)
        left = amount + self.debt
        for part in self._parts:
            if left <= part.amount + _NEARLY:
                return max(0.0, part.start + left / self.rate - now)
            left -= part.amount
        return 0.0 if left <= 0 else math.inf

    def charge(self, amount: float) -> None:
        """Use `amount`."""
        self.debt += amount
        parts = self._parts
        while parts and self.debt > 0:
            part = parts[0]
            used = min(part.amount, self.debt)
            self.debt -= used
            self.held -= used
            part.amount -= used
            part.start += used / self.rate
            if part.amount <= _NEARLY:
                parts.popleft()

    def refund(self, amount: float, now: float) -> None:
        """Put back `amount` that was charged and not used."""
        paid = min(amount, self.debt)
        self.debt -= paid
        if amount > paid:
            self.held += amount - paid
            self._parts.appendleft(_Part(now - amount / self.rate, amount - paid, now + self.valid / 2))

    def ends_at(self) -> float:
        """Return when the last slot begins; minus infinity without slots."""
        last = self._parts[-1] if self._parts else None
        return -math.inf if last is None else last.start + last.amount / self.rate

    def slots(self, now: float) -> tuple[Slots, ...]:
        """Return the slots that are left."""
        self.advance(now)
        return tuple(Slots(part.start - now, part.amount) for part in self._parts)

    def drop(self) -> None:
        """Give up all slots."""
        self._parts.clear()
        self.held = 0.0
